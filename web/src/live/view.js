// One stream's live picture: picks the way (WebSocket, HLS, single pictures), starts again after a pause.

import { api } from '../api.js';
import { openHls } from './hls.js';
import { openSnapshots } from './snapshots.js';
import { canSocket, openSocket } from './socket.js';

const PAUSES_MS = [500, 1000, 2000, 4000, 8000];
const REFUSALS_MAX = 2;
const WAYS = { socket: openSocket, hls: openHls, pictures: openSnapshots };

// `elements` are a video and an image, `view` is { id, quality }. `show` gets { phase: 'waiting' | 'showing' | 'failed', way, hasSound, reason }.
export function openView(elements, view, codec, show) {
  let way = codec === 'mjpeg' ? 'pictures' : canSocket() ? 'socket' : 'hls';
  let stopWay = null;
  let timer = null;
  let tries = 0;
  let refusals = 0;
  let state = { phase: 'waiting', way, hasSound: false, reason: '' };
  const set = (change) => {
    state = { ...state, ...change };
    show(state);
  };

  function open() {
    const target = way === 'pictures' ? elements.image : elements.video;
    set({ way, phase: 'waiting' });
    stopWay = WAYS[way](target, view, {
      picture: () => {
        tries = 0;
        refusals = 0;
        set({ phase: 'showing', reason: '' });
      },
      sound: (hasSound) => set({ hasSound }),
      end: over,
    });
  }
  function over(why) {
    stopWay = null;
    if (why === 'stopped') return;
    if (why === 'codec') {
      way = 'pictures';
      refusals = 0;
    } else if (why === 'refused') {
      refusals += 1;
    }
    const pause = PAUSES_MS[Math.min(tries, PAUSES_MS.length - 1)];
    tries += 1;
    if (refusals >= REFUSALS_MAX) {
      explain();
      refusals = 0;
      way = next(way);
    }
    timer = setTimeout(open, pause);
  }
  // A socket can't say why it was refused; the playlist of the same stream can.
  async function explain() {
    try {
      await api('GET', `/streaming/${view.id}/hls/playlist.m3u8`, { as: 'text' });
    } catch (error) {
      if (stopWay || timer) set({ phase: 'failed', reason: error.message });
    }
  }
  open();
  return () => {
    clearTimeout(timer);
    timer = null;
    stopWay?.();
  };
}

function next(way) {
  if (way === 'socket') return 'hls';
  if (way === 'hls') return 'pictures';
  return canSocket() ? 'socket' : 'hls';
}
