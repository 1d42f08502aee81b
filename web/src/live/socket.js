// Live view by fragmented MP4 over WebSocket and MediaSource: sub-second, and the first choice.

import { streamingUrl } from '../api.js';
import { decide } from './latency.js';

const Source = globalThis.MediaSource ?? globalThis.ManagedMediaSource;
// A second of 8K video is less; more waiting means that the browser doesn't take it.
const QUEUE_BYTES_MAX = 16 << 20;
const KEEP_S = 12;
const SILENT_MS = 12000;

export const canSocket = () => Boolean(Source && globalThis.WebSocket);

// Calls `on.picture()` at the first picture, `on.sound(has)`, and once `on.end(reason)`: 'closed' may be tried again,
// 'codec' may not, 'refused' means that no message ever came.
export function openSocket(video, view, on) {
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  const socket = new WebSocket(`${scheme}://${location.host}${streamingUrl(view, 'live')}`);
  socket.binaryType = 'arraybuffer';
  let sink = null;
  let isOver = false;
  let hasTalked = false;
  let silence = null;

  function end(reason) {
    if (isOver) return;
    isOver = true;
    clearTimeout(silence);
    video.removeEventListener('loadeddata', on.picture);
    socket.close();
    sink?.close();
    video.removeAttribute('src');
    video.load();
    on.end(reason);
  }
  function listen() {
    clearTimeout(silence);
    silence = setTimeout(() => end('closed'), SILENT_MS);
  }
  socket.onmessage = ({ data }) => {
    hasTalked = true;
    listen();
    if (typeof data !== 'string') {
      sink?.push(data);
      return;
    }
    const format = JSON.parse(data);
    if (!format.codecs) return;
    const mime = `video/mp4; codecs="${format.codecs}"`;
    if (!Source.isTypeSupported(mime)) {
      end('codec');
      return;
    }
    sink?.close();
    sink = openSink(video, mime, () => end('closed'));
    on.sound(format.codecs.includes(','));
  };
  socket.onclose = () => end(hasTalked ? 'closed' : 'refused');
  video.addEventListener('loadeddata', on.picture);
  listen();
  return () => end('stopped');
}

// Where fragments go; `fail` is called when the browser can't take them.
function openSink(video, mime, fail) {
  const source = new Source();
  const url = URL.createObjectURL(source);
  const queue = [];
  let bytes = 0;
  let buffer = null;
  // ManagedMediaSource wants remote playback off.
  video.disableRemotePlayback = true;
  video.src = url;

  function next() {
    if (!buffer || buffer.updating || source.readyState !== 'open') return;
    const { buffered } = buffer;
    if (buffered.length > 0 && video.currentTime - buffered.start(0) > 2 * KEEP_S) {
      buffer.remove(0, video.currentTime - KEEP_S);
      return;
    }
    if (queue.length === 0) return;
    const joined = new Uint8Array(bytes);
    let at = 0;
    for (const part of queue) {
      joined.set(new Uint8Array(part), at);
      at += part.byteLength;
    }
    queue.length = 0;
    bytes = 0;
    try {
      buffer.appendBuffer(joined);
    } catch {
      fail();
    }
  }
  function follow() {
    if (!buffer || buffer.buffered.length === 0) return;
    const { buffered } = buffer;
    const last = buffered.length - 1;
    const step = decide(video.currentTime, buffered.start(last), buffered.end(last));
    if (step.jumpTo !== null) video.currentTime = step.jumpTo;
    video.playbackRate = step.rate;
    if (video.paused) video.play().catch(() => {});
  }
  source.addEventListener('sourceopen', () => {
    URL.revokeObjectURL(url);
    // The video may have been given something else since.
    if (source.readyState !== 'open') return;
    buffer = source.addSourceBuffer(mime);
    buffer.addEventListener('updateend', () => {
      follow();
      next();
    });
    buffer.addEventListener('error', fail);
    next();
  }, { once: true });
  video.addEventListener('error', fail);
  return {
    push(part) {
      queue.push(part);
      bytes += part.byteLength;
      if (bytes > QUEUE_BYTES_MAX) fail();
      else next();
    },
    close() {
      buffer = null;
      video.removeEventListener('error', fail);
    },
  };
}
