// One player for all recordings. It stops when the tab is hidden or the player is closed.

const section = document.getElementById('player');
const title = document.getElementById('player-title');
const video = document.getElementById('video');
const problem = document.getElementById('player-problem');
let opener = null;

const PROBLEMS = {
  2: 'The recording stopped loading: the recorder can\'t be reached.',
  3: 'The recording can\'t be decoded by this browser.',
  4: 'This browser can\'t play the recording (its codec may be missing), or it was deleted. Save it to play it elsewhere.',
};

export function play(url, name) {
  opener = document.activeElement;
  title.textContent = name;
  problem.hidden = true;
  video.src = url;
  section.hidden = false;
  section.scrollIntoView({ block: 'nearest' });
  title.focus();
  // A browser may refuse to start by itself; the controls are there.
  video.play().catch(() => {});
}

function close() {
  video.pause();
  video.removeAttribute('src');
  video.load();
  section.hidden = true;
  opener?.focus();
}

video.addEventListener('error', () => {
  if (!video.hasAttribute('src')) return;
  problem.textContent = PROBLEMS[video.error?.code] ?? 'The recording can\'t be played.';
  problem.hidden = false;
});
document.getElementById('player-close').addEventListener('click', close);
section.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !document.fullscreenElement) close();
});
document.addEventListener('visibilitychange', () => {
  if (document.hidden) video.pause();
});
