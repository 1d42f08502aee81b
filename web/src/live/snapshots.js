// Live view by single pictures: the last resort, and what a camera that sends MJPEG needs.

import { api, streamingPath } from '../api.js';

const EVERY_MS = 1000;
const FAILS_MAX = 3;
// Few widths, so that viewers of one stream share the work of its decoder.
const WIDTHS = [320, 640, 1280, 1920];

// Shows one picture after the other in `image`. See `openSocket` for `on`.
export function openSnapshots(image, view, on) {
  const controller = new AbortController();
  let fails = 0;
  let timer = null;
  let shown = null;
  async function ask() {
    const pixels = image.parentElement.clientWidth * devicePixelRatio;
    const width = WIDTHS.find((step) => step >= pixels) ?? WIDTHS[WIDTHS.length - 1];
    try {
      const picture = await api('GET', streamingPath(view, 'snapshot.jpg', { width }), { as: 'blob', signal: controller.signal });
      if (controller.signal.aborted) return;
      const last = shown;
      shown = URL.createObjectURL(picture);
      image.src = shown;
      if (last) URL.revokeObjectURL(last);
      fails = 0;
      on.picture();
    } catch {
      fails += 1;
    }
    if (fails >= FAILS_MAX) end('refused');
    else if (!controller.signal.aborted) timer = setTimeout(ask, EVERY_MS);
  }
  function end(reason) {
    if (controller.signal.aborted) return;
    controller.abort();
    clearTimeout(timer);
    image.removeAttribute('src');
    if (shown) URL.revokeObjectURL(shown);
    on.end(reason);
  }
  on.sound(false);
  ask();
  return () => end('stopped');
}
