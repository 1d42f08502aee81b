// The resource `recordings`: filters, pages of rows, and what can be done with each.

import { useEffect, useState } from 'preact/hooks';
import { api, downloadUrl } from '../api.js';
import { Confirm, tell } from '../dialog.jsx';
import { Problem } from '../field.jsx';
import { at, length, rfc3339, size, zone } from '../format.js';
import { Heading } from '../heading.jsx';
import { Icon } from '../icon.jsx';
import { usePoll } from '../poll.js';
import { href, replace } from '../route.js';
import { dayOf } from '../timeline/view_core.js';

const ROWS = 100;
const REFRESH_MS = 5000;

// One row more than is shown tells whether there are older ones.
function pathOf({ stream, date, kept, before, after }) {
  const query = new URLSearchParams({ limit: String(ROWS + 1), order: after ? 'asc' : 'desc' });
  if (stream) query.set('stream_id', stream);
  if (kept) query.set('protected', 'true');
  if (date) {
    const day = dayOf(date);
    query.set('start', rfc3339(day.from));
    query.set('end', rfc3339(day.to));
  }
  if (before) query.set('before', before);
  if (after) query.set('after', after);
  return `/recordings?${query}`;
}

export function Recordings({ route, streams, system }) {
  const given = Object.fromEntries(['stream', 'date', 'kept', 'before', 'after'].map((name) => [name, route.params.get(name) ?? '']));
  // The newest page changes by itself; older ones stay under the reader's eyes.
  const { data, error, reload } = usePoll(pathOf(given), given.before || given.after ? 0 : REFRESH_MS);
  const [doomed, setDoomed] = useState(null);
  const [problem, setProblem] = useState(null);
  useEffect(() => setProblem(null), [route]);
  const found = data ? [...data.recordings] : null;
  const hasMore = found && found.length > ROWS;
  if (hasMore) found.pop();
  if (found && given.after) found.reverse();
  const filter = (change) => replace('recordings', undefined, { ...given, before: '', after: '', ...change });
  const isFiltered = given.stream || given.date || given.kept;
  const hasNewer = given.after ? hasMore : Boolean(given.before);
  const hasOlder = given.after ? true : hasMore;

  async function keep(recording) {
    try {
      await api('PUT', `/recordings/${recording.id}`, { body: { protected: !recording.protected } });
      setProblem(null);
      await reload();
    } catch (failure) {
      setProblem(failure);
    }
  }
  async function remove() {
    await api('DELETE', `/recordings/${doomed.id}`);
    tell(`The recording of ${at(doomed.start_time)} was deleted.`);
    await reload();
  }
  return (
    <>
      <div class="page-head">
        <Heading>Recordings</Heading>
        {system && <p class="quiet">{system.recordings_total} in all</p>}
      </div>
      <form class="filters card" onSubmit={(event) => event.preventDefault()} aria-label="Filter">
        <label>Stream
          <select value={given.stream} onChange={(event) => filter({ stream: event.currentTarget.value })}>
            <option value="">All</option>
            {(streams ?? []).map(({ id, name }) => <option key={id} value={String(id)}>{name}</option>)}
            {given.stream && streams && !streams.some(({ id }) => String(id) === given.stream) && <option value={given.stream}>Stream {given.stream}</option>}
          </select>
        </label>
        <label>Day
          <input type="date" value={given.date} onChange={(event) => filter({ date: event.currentTarget.value })} />
        </label>
        <label class="check">
          <input type="checkbox" checked={Boolean(given.kept)} onChange={(event) => filter({ kept: event.currentTarget.checked ? '1' : '' })} />
          Protected alone
        </label>
        {isFiltered && <button type="button" class="button" onClick={() => filter({ stream: '', date: '', kept: '' })}>Show all</button>}
      </form>
      <Problem error={problem ?? (data ? null : error)} />
      {found?.length === 0 && <p class="card empty-state">{isFiltered || given.before ? 'No recording fits.' : 'Nothing is recorded yet.'}</p>}
      {found?.length > 0 && <Table rows={found} onKeep={keep} onDelete={setDoomed} />}
      {found && (hasNewer || hasOlder) && found.length > 0 && (
        <nav class="pager" aria-label="Pages of recordings">
          <Turn isThere={hasNewer} params={{ ...given, before: '', after: String(found[0].id) }}><Icon name="left" /><span>Newer</span></Turn>
          <Turn isThere={hasOlder} params={{ ...given, after: '', before: String(found[found.length - 1].id) }}><span>Older</span><Icon name="right" /></Turn>
        </nav>
      )}
      <p class="hint">Times are in {zone()}.</p>
      {doomed && (
        <Confirm title="Delete this recording?" yes="Delete for good" isDangerous onYes={remove} onClose={() => setDoomed(null)}>
          <p>
            <strong>{doomed.stream_name}</strong>, {at(doomed.start_time)}, {length(doomed.duration)} long, {size(doomed.size)}.
            {doomed.protected ? ' It is protected.' : ''} Its file is removed from the disk and can’t be had back.
          </p>
        </Confirm>
      )}
    </>
  );
}

function Turn({ isThere, params, children }) {
  if (!isThere) return <span class="button" aria-disabled="true">{children}</span>;
  return <a class="button" href={href('recordings', undefined, params)}>{children}</a>;
}

// Roles are named, because the narrow layout takes the cells out of the table's own.
function Table({ rows, onKeep, onDelete }) {
  return (
    <table class="table recordings" role="table">
      <caption class="hidden-text">Recordings, newest first</caption>
      <thead role="rowgroup">
        <tr role="row">
          <th scope="col" role="columnheader">Stream</th>
          <th scope="col" role="columnheader">Beginning</th>
          <th scope="col" role="columnheader" class="number">Length</th>
          <th scope="col" role="columnheader" class="number">Size</th>
          <th scope="col" role="columnheader"><span class="hidden-text">What to do</span></th>
        </tr>
      </thead>
      <tbody role="rowgroup">
        {rows.map((row) => <Entry key={row.id} row={row} onKeep={onKeep} onDelete={onDelete} />)}
      </tbody>
    </table>
  );
}

function Entry({ row, onKeep, onDelete }) {
  const name = `${row.stream_name}, ${at(row.start_time)}`;
  return (
    <tr role="row">
      <td role="cell" class="cell-name"><a href={href('timeline', undefined, { stream: row.stream_id, at: row.start_time })} aria-label={`Play ${name}`}><Icon name="play" /><span>{row.stream_name}</span></a></td>
      <td role="cell" class="cell-time">{at(row.start_time)}{row.in_progress && <span class="tag recording">recording now</span>}{row.protected && <span class="tag kept">protected</span>}</td>
      <td role="cell" class="number cell-length">{length(row.duration)}</td>
      <td role="cell" class="number cell-size">{size(row.size)}</td>
      <td role="cell" class="cell-tools">
        <button type="button" class="button plain square" aria-pressed={row.protected} onClick={() => onKeep(row)} aria-label={`Protect ${name}`}
          title={row.protected ? 'Protected; click to end that' : 'Protect'}><Icon name={row.protected ? 'keep' : 'free'} /></button>
        <a class="button plain square" href={downloadUrl(row.id)} download aria-label={`Save ${name}`} title="Save"><Icon name="save" /></a>
        <button type="button" class="button plain square" disabled={row.in_progress} onClick={() => onDelete(row)} aria-label={`Delete ${name}`}
          title={row.in_progress ? 'It is still being recorded' : 'Delete'}><Icon name="remove" /></button>
      </td>
    </tr>
  );
}
