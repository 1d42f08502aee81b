// The page: streams and the newest recordings, asked for again every few seconds while it is seen.

import { api } from './api.js';
import { system } from './format.js';
import { showRecordings } from './recordings.js';
import { showStreams } from './streams.js';

const REFRESH_MS = 4000;
const RECORDINGS = 50;

const problem = document.getElementById('problem');
let timer = null;
let isBusy = false;

async function refresh() {
  if (isBusy) return;
  isBusy = true;
  try {
    const [streams, recordings, info] = await Promise.all([
      api('GET', '/streams'),
      api('GET', `/recordings?order=desc&limit=${RECORDINGS}`),
      api('GET', '/system'),
    ]);
    showStreams(streams.streams);
    showRecordings(recordings.recordings);
    document.getElementById('system').textContent = system(info);
    problem.hidden = true;
  } catch (error) {
    // The same text again would make a screen reader repeat it.
    if (problem.textContent !== error.message) problem.textContent = error.message;
    problem.hidden = false;
  }
  isBusy = false;
}

function run() {
  clearInterval(timer);
  if (document.hidden) return;
  refresh();
  timer = setInterval(refresh, REFRESH_MS);
}

document.addEventListener('visibilitychange', run);
run();
