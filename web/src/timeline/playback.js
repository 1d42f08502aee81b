// Plays a stream's recordings at a moment, one after the other. The video seeks inside the MP4 by range requests.

import { api, downloadUrl } from '../api.js';
import { clock, rfc3339, span } from '../format.js';

const NEWEST_PAUSE_MS = 2000;
// So far behind the newest recording a moment still means that one.
const NEWEST_MS = 15000;
const END_S = 1;
// Files begin at keyframes and their times are whole seconds: less is no gap.
const GAP_MS_MIN = 2500;

const PROBLEMS = {
  2: 'Loading stopped: the recorder can’t be reached.',
  3: 'This browser can’t decode the recording. Save it to play it elsewhere.',
  4: 'This browser can’t play the recording (its codec may be missing), or it was deleted.',
};

// `show` gets { phase: 'idle' | 'loading' | 'playing' | 'paused' | 'ended' | 'failed', recording, note }, `time` the
// moment that is seen in Unix milliseconds.
export function createPlayback(video, show, time) {
  let state = { phase: 'idle', recording: null, note: '' };
  let turn = 0;
  let rate = 1;
  let timer = null;
  const set = (change) => {
    state = { ...state, ...change };
    show(state);
  };
  const startOf = (recording) => Date.parse(recording.start_time);
  const position = () => (state.recording ? startOf(state.recording) + video.currentTime * 1000 : null);

  // The answer, unless something else was asked for meanwhile.
  async function ask(path) {
    const mine = turn;
    try {
      const data = await api('GET', path);
      return mine === turn ? data : null;
    } catch (error) {
      if (mine === turn) set({ phase: 'failed', note: error.message });
      return null;
    }
  }

  async function playAt(stream, at) {
    turn += 1;
    clearTimeout(timer);
    const now = state.recording;
    const isInside = now && !now.in_progress && now.stream_id === stream && at >= startOf(now) && at < Date.parse(now.end_time);
    if (isInside && video.src) {
      load(now, (at - startOf(now)) / 1000, '');
      return;
    }
    set({ phase: 'loading', note: '' });
    const list = await ask(`/recordings?stream_id=${stream}&start=${rfc3339(at)}&limit=1`);
    if (!list) return;
    const [next] = list.recordings;
    if (!next) {
      await playNewest(stream, at);
      return;
    }
    const start = startOf(next);
    const note = start > at + GAP_MS_MIN ? `Nothing is recorded at ${clock(at)}; the next recording begins at ${clock(start)}.` : '';
    load(next, Math.max(0, (at - start) / 1000), note);
  }

  // What is recorded at this moment is not yet safely stored.
  async function playNewest(stream, at) {
    const list = await ask(`/recordings?stream_id=${stream}&order=desc&limit=1`);
    if (!list) return;
    const [newest] = list.recordings;
    if (newest && at - Date.parse(newest.end_time) < NEWEST_MS) {
      load(newest, newest.duration, '');
      return;
    }
    stop();
    set({ phase: 'ended', recording: null, note: `Nothing is recorded from ${clock(at)} on.` });
  }

  function load(recording, wished, note) {
    // Behind the end of a file that grows a browser would wait for good.
    const offset = Math.max(0, Math.min(wished, recording.duration - END_S));
    const isLoaded = state.recording?.id === recording.id && video.src && !recording.in_progress;
    set({ recording, note, phase: 'loading' });
    if (!isLoaded) {
      video.src = downloadUrl(recording.id);
      video.load();
    }
    const seek = () => {
      video.currentTime = offset;
      video.playbackRate = rate;
      video.play().catch(() => set({ phase: 'paused' }));
    };
    if (video.readyState >= 1) seek();
    else video.addEventListener('loadedmetadata', seek, { once: true });
  }

  async function goOn() {
    const last = state.recording;
    if (!last) return;
    turn += 1;
    const played = video.currentTime;
    if (last.in_progress) {
      const grown = await ask(`/recordings/${last.id}`);
      if (!grown) return;
      if (grown.duration > Math.ceil(played) + 1) {
        load(grown, played, '');
        return;
      }
      if (grown.in_progress) {
        set({ phase: 'ended', recording: grown, note: 'This is the newest stored moment; it goes on by itself.' });
        timer = setTimeout(goOn, NEWEST_PAUSE_MS);
        return;
      }
    }
    const list = await ask(`/recordings?stream_id=${last.stream_id}&after=${last.id}&limit=1`);
    if (!list) return;
    const [next] = list.recordings;
    if (!next) {
      set({ phase: 'ended', note: 'This was the newest recording.' });
      return;
    }
    const gap = startOf(next) - Date.parse(last.end_time);
    load(next, 0, gap > GAP_MS_MIN ? `${span(gap / 1000)} without recording were passed over.` : '');
  }

  function stop() {
    clearTimeout(timer);
    video.pause();
    video.removeAttribute('src');
    video.load();
  }

  const handlers = {
    timeupdate: () => time(position()),
    seeked: () => time(position()),
    playing: () => set({ phase: 'playing' }),
    pause: () => state.phase === 'playing' && !video.ended && set({ phase: 'paused' }),
    ended: goOn,
    error: () => {
      if (video.hasAttribute('src')) set({ phase: 'failed', note: PROBLEMS[video.error?.code] ?? 'The recording can’t be played.' });
    },
  };
  for (const [name, handler] of Object.entries(handlers)) video.addEventListener(name, handler);
  const pauseHidden = () => document.hidden && video.pause();
  document.addEventListener('visibilitychange', pauseHidden);

  return {
    playAt,
    skip(seconds) {
      if (state.recording) playAt(state.recording.stream_id, position() + seconds * 1000);
    },
    toggle() {
      clearTimeout(timer);
      if (!video.paused) video.pause();
      else if (state.recording) video.play().catch(() => {});
    },
    setRate(next) {
      rate = next;
      video.playbackRate = next;
    },
    close() {
      turn += 1;
      for (const [name, handler] of Object.entries(handlers)) video.removeEventListener(name, handler);
      document.removeEventListener('visibilitychange', pauseHidden);
      stop();
    },
  };
}
