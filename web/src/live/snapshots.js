// Live view by single pictures: the last resort, and what a camera that sends MJPEG needs.

import { streamingUrl } from '../api.js';

const EVERY_MS = 1000;
const FAILS_MAX = 3;

// Shows one picture after the other in `image`. See `openSocket` for `on`.
export function openSnapshots(image, view, on) {
  let isOver = false;
  let fails = 0;
  let timer = null;
  function ask() {
    const pixels = Math.max(160, Math.min(1920, Math.round(image.parentElement.clientWidth * devicePixelRatio)));
    // Few widths, so that tiles of one stream share the decoder's work.
    const width = [320, 640, 1280, 1920].find((step) => step >= pixels) ?? 1920;
    image.src = streamingUrl(view, 'snapshot.jpg', { width, t: Date.now() });
  }
  image.onload = () => {
    fails = 0;
    on.picture();
    timer = setTimeout(ask, EVERY_MS);
  };
  image.onerror = () => {
    fails += 1;
    if (fails >= FAILS_MAX) end('refused');
    else timer = setTimeout(ask, EVERY_MS);
  };
  function end(reason) {
    if (isOver) return;
    isOver = true;
    clearTimeout(timer);
    image.onload = null;
    image.onerror = null;
    image.removeAttribute('src');
    on.end(reason);
  }
  on.sound(false);
  ask();
  return () => end('stopped');
}
