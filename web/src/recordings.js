// The list of recordings, newest first; each plays in the page.

import { length, size, time } from './format.js';
import { el, setText, showList } from './list.js';
import { play } from './player.js';
import { recordingUrl } from './api.js';

function create(recording) {
  const node = el('li', 'row');
  const link = el('a', 'name');
  link.href = recordingUrl(recording.id);
  link.addEventListener('click', (event) => {
    // With a modifier it stays a link: new tab, or saved to disk.
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    play(recordingUrl(recording.id), link.textContent);
  });
  node.append(link, el('span', 'facts quiet'), el('span', 'live'));
  return node;
}

function update(node, recording) {
  setText(node.querySelector('.name'), `${recording.stream_name}, ${time(recording.start_time)}`);
  setText(node.querySelector('.facts'), `${length(recording.duration)} · ${size(recording.size)}`);
  const live = node.querySelector('.live');
  setText(live, recording.in_progress ? 'recording' : '');
  live.hidden = !recording.in_progress;
}

export const showRecordings = (list) => showList('recordings', list, create, update);
