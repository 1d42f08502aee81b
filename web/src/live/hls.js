// Live view by HLS: where WebSocket or MediaSource is missing, or something on the way lets no socket through.

import { streamingUrl } from '../api.js';

// See `openSocket` for `on`.
export function openHls(video, view, on) {
  const url = streamingUrl(view, 'hls/playlist.m3u8');
  let isOver = false;
  let player = null;
  function end(reason) {
    if (isOver) return;
    isOver = true;
    video.removeEventListener('loadeddata', on.picture);
    video.removeEventListener('error', fail);
    player?.destroy();
    video.removeAttribute('src');
    video.load();
    on.end(reason);
  }
  const fail = () => end('refused');
  video.addEventListener('loadeddata', on.picture);
  on.sound(true);
  if (globalThis.MediaSource) {
    import('hls.js/dist/hls.light.min.js').then(({ default: Hls }) => {
      if (isOver) return;
      if (!Hls.isSupported()) {
        end('refused');
        return;
      }
      // The page's policy allows no worker that is made of a blob.
      player = new Hls({ enableWorker: false, lowLatencyMode: true, backBufferLength: 12 });
      player.on(Hls.Events.ERROR, (_, error) => error.fatal && fail());
      player.loadSource(url);
      player.attachMedia(video);
      video.play().catch(() => {});
    }, fail);
  } else if (video.canPlayType('application/vnd.apple.mpegurl')) {
    video.addEventListener('error', fail);
    video.src = url;
    video.play().catch(() => {});
  } else {
    queueMicrotask(fail);
  }
  return () => end('stopped');
}
