// The resource `streams`: what is set up, how it is doing, and how long its recordings will be kept.

import { useState } from 'preact/hooks';
import { api, sentence } from '../api.js';
import { Confirm, tell } from '../dialog.jsx';
import { Problem } from '../field.jsx';
import { days, picture, statusInWords } from '../format.js';
import { Heading, Status } from '../heading.jsx';
import { Icon } from '../icon.jsx';
import { href } from '../route.js';

export function Streams({ streams, streamsError, reloadStreams, system }) {
  const [doomed, setDoomed] = useState(null);
  async function remove() {
    await api('DELETE', `/streams/${doomed.id}`);
    await reloadStreams();
    tell(`${doomed.name} was deleted. Its recordings are still there.`);
  }
  return (
    <>
      <div class="page-head">
        <Heading>Streams</Heading>
        <a class="button primary" href={href('streams', 'new')}><Icon name="plus" /><span>Add a camera</span></a>
      </div>
      {!streams && <Problem error={streamsError} />}
      {streams?.length === 0 && <p class="card empty-state">No camera is set up yet.</p>}
      <ul class="cards">
        {(streams ?? []).map((stream) => (
          <Card key={stream.id} stream={stream} forecast={system?.forecast?.find((f) => f.stream_id === stream.id)}
            reload={reloadStreams} onDelete={() => setDoomed(stream)} />
        ))}
      </ul>
      {doomed && (
        <Confirm title={`Delete ${doomed.name}?`} yes="Delete the stream" isDangerous onYes={remove} onClose={() => setDoomed(null)}>
          <p>Live view and recording of {doomed.name} end now, and its address and settings are forgotten. What is recorded already stays.</p>
        </Confirm>
      )}
    </>
  );
}

function Card({ stream, forecast, reload, onDelete }) {
  const [error, setError] = useState(null);
  async function change(body) {
    try {
      await api('PUT', `/streams/${stream.id}`, { body });
      setError(null);
      await reload();
    } catch (problem) {
      setError(problem);
    }
  }
  const facts = picture(stream.actual);
  return (
    <li class="card stream">
      <div class="card-head">
        <h2><a href={href('live', stream.id)}>{stream.name}</a></h2>
        <Status status={stream.status}>{statusInWords(stream.status)}</Status>
      </div>
      {stream.status_detail && <p class="reason">{sentence(stream.status_detail)}</p>}
      <p class="url">{stream.url}</p>
      {facts.length > 0 && <ul class="facts">{facts.map((fact) => <li key={fact}>{fact}</li>)}</ul>}
      <p class="kept">{keptInWords(stream, forecast)}</p>
      {stream.advice?.length > 0 && (
        <ul class="advice">{stream.advice.map((text) => <li key={text}>{sentence(text)}</li>)}</ul>
      )}
      <Problem error={error} />
      <div class="actions">
        <a class="button" href={href('streams', stream.id)} aria-label={`Edit ${stream.name}`}><Icon name="edit" /><span>Edit</span></a>
        <button type="button" class="button" onClick={() => change({ enabled: !stream.enabled })}
          aria-label={`${stream.enabled ? 'Switch off' : 'Switch on'} ${stream.name}`}>
          {stream.enabled ? 'Switch off' : 'Switch on'}
        </button>
        <button type="button" class="button quiet-danger" onClick={onDelete} aria-label={`Delete ${stream.name}`}><Icon name="remove" /><span>Delete</span></button>
      </div>
    </li>
  );
}

function keptInWords(stream, forecast) {
  if (!stream.record) return 'Not recorded: live view alone.';
  if (!stream.enabled) return 'Not recorded while it is switched off.';
  if (!forecast || (forecast.days_kept === null && !stream.actual)) return 'Recorded. How many days fit is known once it delivers.';
  if (forecast.days_kept === null) return 'Recorded, and kept without end at the present bitrate.';
  const wished = forecast.days_wished;
  if (forecast.short_from && wished) {
    return `Recorded. About ${days(forecast.days_kept)} fit on the disk. You asked for ${days(wished)}: the disk is too small for that.`;
  }
  if (wished && forecast.days_kept >= wished) {
    const room = forecast.days_fit === null ? 'more' : `about ${days(forecast.days_fit)}`;
    return `Recorded, and kept for ${days(wished)} as you asked; ${room} would fit on the disk.`;
  }
  return `Recorded. About ${days(forecast.days_kept)} fit on the disk.`;
}
