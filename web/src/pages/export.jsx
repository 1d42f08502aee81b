// A span that was chosen on the timeline becomes one MP4 across recordings.

import { useEffect, useState } from 'preact/hooks';
import { api } from '../api.js';
import { Problem } from '../field.jsx';
import { localDateTime, rfc3339, size, span } from '../format.js';
import { Icon } from '../icon.jsx';

const AROUND_MS = 30 * 1000;

export function Export({ stream, choice, setChoice, cursor, day }) {
  const [error, setError] = useState(null);
  const [estimate, setEstimate] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const query = choice && `start=${rfc3339(choice.from)}&end=${rfc3339(choice.to)}`;
  const seconds = choice ? (choice.to - choice.from) / 1000 : 0;
  useEffect(() => {
    setEstimate(null);
    setError(null);
    if (!choice || seconds < 1) return undefined;
    const controller = new AbortController();
    const timer = setTimeout(() => weigh(stream.id, choice, controller.signal).then(setEstimate, () => {}), 400);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [stream.id, query]);
  const set = (name) => (event) => {
    const time = new Date(event.currentTarget.value).getTime();
    if (Number.isNaN(time)) return;
    setChoice({ from: time, to: time + 60000, ...choice, [name]: time });
  };
  async function save(event) {
    event.preventDefault();
    if (seconds < 1) {
      setError({ message: 'The end has to be later than the beginning.' });
      return;
    }
    setBusy(true);
    setError(null);
    const path = `/streams/${stream.id}/export.mp4?${query}`;
    try {
      // An error is shown here, in words, instead of being saved as a file.
      await api('HEAD', path);
      const link = document.createElement('a');
      link.href = `/api/v1${path}`;
      link.download = '';
      link.click();
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  }
  const around = () => setChoice({ from: cursor - AROUND_MS, to: cursor + AROUND_MS });
  return (
    <form class="card export" onSubmit={save} aria-labelledby="export-title">
      <h2 id="export-title">Export</h2>
      <p class="hint">One MP4 of {stream.name} that plays everywhere. Gaps stay gaps in time.</p>
      <div class="field">
        <label for="export-from">From</label>
        <input id="export-from" type="datetime-local" step="1" required value={choice ? localDateTime(choice.from) : ''}
          min={localDateTime(day.from)} onChange={set('from')} />
      </div>
      <div class="field">
        <label for="export-to">To</label>
        <input id="export-to" type="datetime-local" step="1" required value={choice ? localDateTime(choice.to) : ''} onChange={set('to')} />
      </div>
      {cursor !== null && (
        <div class="actions tight">
          <button type="button" class="button" onClick={around}>The minute around</button>
          <button type="button" class="button" onClick={() => setChoice({ from: cursor, to: Math.max(choice?.to ?? 0, cursor + 1000) })}>Begin here</button>
          <button type="button" class="button" onClick={() => setChoice({ from: Math.min(choice?.from ?? cursor - 60000, cursor - 1000), to: cursor })}>End here</button>
        </div>
      )}
      <p class="estimate" role="status">{choice && seconds >= 1 ? `${span(seconds)}${estimate === null ? '' : estimate === 0 ? ', nothing recorded in it' : `, about ${size(estimate)}`}` : ''}</p>
      <Problem error={error} />
      <button type="submit" class="button primary wide" disabled={!choice || isBusy}><Icon name="save" /><span>Save as MP4</span></button>
    </form>
  );
}

// Bytes of the recordings in the span, by the share of each that lies in it.
async function weigh(stream, choice, signal) {
  const query = `stream_id=${stream}&start=${rfc3339(choice.from)}&end=${rfc3339(choice.to)}&limit=1000`;
  const { recordings } = await api('GET', `/recordings?${query}`, { signal });
  return recordings.reduce((sum, recording) => {
    const from = Date.parse(recording.start_time);
    const to = Date.parse(recording.end_time);
    const inside = Math.min(to, choice.to) - Math.max(from, choice.from);
    return to > from && inside > 0 ? sum + (recording.size * inside) / (to - from) : sum;
  }, 0);
}
