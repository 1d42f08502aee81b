// The list of streams: name, status in words, why, and what arrives.

import { picture, statusInWords } from './format.js';
import { el, setText, showList } from './list.js';

function create() {
  const node = el('li', 'card');
  const head = el('div', 'card-head');
  head.append(el('strong', 'name'), el('span', 'status'));
  node.append(head, el('p', 'detail'), el('p', 'picture quiet'));
  return node;
}

function update(node, stream) {
  setText(node.querySelector('.name'), stream.name);
  const status = node.querySelector('.status');
  setText(status, statusInWords(stream.status));
  status.dataset.status = stream.status;
  const detail = node.querySelector('.detail');
  setText(detail, stream.status_detail);
  detail.hidden = !stream.status_detail;
  const what = node.querySelector('.picture');
  setText(what, picture(stream));
  what.hidden = !stream.actual;
}

export const showStreams = (streams) => showList('streams', streams, create, update);
