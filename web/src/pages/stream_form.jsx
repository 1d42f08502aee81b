// Adding and editing one of `streams`, with a test before it is saved.

import { useEffect, useState } from 'preact/hooks';
import { api, sentence } from '../api.js';
import { tell } from '../dialog.jsx';
import { Field, Problem, Switch, errorOf } from '../field.jsx';
import { codec } from '../format.js';
import { Heading } from '../heading.jsx';
import { Icon } from '../icon.jsx';
import { go, href } from '../route.js';
import { BRANDS, brandUrl, withLogin } from './brands.js';

const TEST_MS = 20000;
const GB = 1e9;

const EMPTY = {
  name: '', brand: '', address: '', channel: '1', hasSub: true, username: '', password: '', url: '', sub_url: '',
  transport: 'auto', tls_fingerprint: '',
  enabled: true, record: true, priority: '5', retention_days: '', max_storage_gb: '',
};

const fromStream = (stream) => ({
  ...EMPTY,
  name: stream.name,
  url: stream.url,
  sub_url: stream.sub_url ?? '',
  transport: stream.transport ?? 'auto',
  tls_fingerprint: stream.tls_fingerprint ?? '',
  enabled: stream.enabled,
  record: stream.record,
  priority: String(stream.priority),
  retention_days: stream.retention_days === undefined || stream.retention_days === null ? '' : String(stream.retention_days),
  max_storage_gb: stream.max_storage_size ? String(stream.max_storage_size / GB) : '',
});

// What the API calls the URL, in the words of the form.
function urlOf(state) {
  if (state.brand) return brandUrl(state, 'main');
  return withLogin(state.url.trim(), state.username, state.password);
}

// Null where there is no small picture.
function subUrlOf(state) {
  const brand = BRANDS.find(({ id }) => id === state.brand);
  if (brand) return brand.sub && state.hasSub ? brandUrl(state, 'sub') : null;
  return state.sub_url.trim() ? withLogin(state.sub_url.trim(), state.username, state.password) : null;
}

const isSecure = (url) => /^rtsps:/i.test(url);

// How the camera is reached, as the API takes it. What the form does not show is as if it had never been set.
function wayOf(state, stream) {
  const way = {};
  if (stream || state.transport !== 'auto') way.transport = isSecure(urlOf(state)) && state.transport === 'udp' ? 'auto' : state.transport;
  const pin = isSecure(urlOf(state)) ? state.tls_fingerprint.trim() : '';
  if (stream || pin) way.tls_fingerprint = pin || null;
  return way;
}

export function StreamForm({ route, streams, streamsError, reloadStreams }) {
  const isNew = route.id === 'new';
  const stream = isNew ? null : streams?.find(({ id }) => String(id) === route.id);
  if (!isNew && !streams) return <><Heading>Stream</Heading><Problem error={streamsError} /></>;
  if (!isNew && !stream) {
    return <><Heading>Stream</Heading><p>There is no such stream. <a href={href('streams')}>All streams</a></p></>;
  }
  return <Form key={route.id} stream={stream} isFirst={isNew && streams?.length === 0} reload={reloadStreams} />;
}

function Form({ stream, isFirst, reload }) {
  const [state, setState] = useState(() => (stream ? fromStream(stream) : EMPTY));
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const set = (name) => (event) => setState({ ...state, [name]: event.currentTarget.value });
  const flag = (name) => (value) => setState({ ...state, [name]: value });
  async function save(event) {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const body = bodyOf(state, stream);
      const saved = await api(stream ? 'PUT' : 'POST', stream ? `/streams/${stream.id}` : '/streams', { body });
      await reload();
      tell(`${saved.name} was ${stream ? 'saved' : 'added'}.`);
      go(stream ? 'streams' : 'live');
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  }
  const title = stream ? `Edit ${stream.name}` : isFirst ? 'Add your first camera' : 'Add a camera';
  return (
    <form class="form wide-form" onSubmit={save}>
      {isFirst && <p class="step">Step 2 of 2</p>}
      <Heading title={title}>{title}</Heading>
      <div class="card">
        <Field label="Name" name="name" required maxLength={64} value={state.name} onInput={set('name')} error={errorOf(error, 'name')}
          hint="As you call the place: Front door, Yard." autocomplete="off" />
        <Source state={state} set={set} flag={flag} stream={stream} error={error} />
        <Test state={state} stream={stream} />
      </div>
      <Keeping {...{ state, set, flag, error }} />
      <Problem error={error} unless={['name', 'url', 'sub_url', 'transport', 'tls_fingerprint', 'priority', 'retention_days', 'max_storage_size']} />
      <div class="actions">
        <button type="submit" class="button primary" disabled={isBusy}>{stream ? 'Save' : 'Add the camera'}</button>
        <a class="button" href={href(isFirst ? 'live' : 'streams')}>{isFirst ? 'Later' : 'Cancel'}</a>
      </div>
    </form>
  );
}

function bodyOf(state, stream) {
  const number = (text) => (text.trim() === '' ? null : Number(text));
  const body = {
    name: state.name.trim(),
    url: urlOf(state),
    enabled: state.enabled,
    record: state.record,
    priority: Number(state.priority),
    ...wayOf(state, stream),
  };
  const subUrl = subUrlOf(state);
  if (stream?.sub_url || subUrl) body.sub_url = subUrl;
  const gb = number(state.max_storage_gb);
  const bytes = gb === null ? null : Math.round(gb * GB);
  // Null clears what was set; a new stream has nothing to clear.
  if (stream || state.retention_days.trim() !== '') body.retention_days = number(state.retention_days);
  if (stream || bytes !== null) body.max_storage_size = bytes;
  return body;
}

function Source({ state, set, flag, stream, error }) {
  const brand = BRANDS.find(({ id }) => id === state.brand);
  const urlError = errorOf(error, 'url');
  return (
    <fieldset class="fieldset">
      <legend>Where the picture comes from</legend>
      <Field label="Make of the camera" name="brand">
        {(given) => (
          <select {...given} value={state.brand} onChange={set('brand')}>
            <option value="">Other, or I know the address</option>
            {BRANDS.map(({ id, name }) => <option key={id} value={id}>{name}</option>)}
          </select>
        )}
      </Field>
      {brand ? (
        <div class="columns">
          <Field label="Address in your network" name="address" required value={state.address} onInput={set('address')} autocomplete="off"
            autocapitalize="none" spellcheck={false} error={urlError} hint="Such as 192.168.1.64. The app of the camera or your router shows it." />
          {brand.main.includes('{c') && (
            <Field label="Channel" name="channel" type="number" min={1} max={64} required value={state.channel} onInput={set('channel')}
              hint="1 for a camera of its own, the input’s number on a recorder." />
          )}
        </div>
      ) : (
        <Field label="Address" name="url" required maxLength={1024} value={state.url} onInput={set('url')} autocomplete="off" autocapitalize="none"
          spellcheck={false} error={urlError} inputMode="url"
          hint="Such as rtsp://192.168.1.64:554/stream1. For a trial without any camera: testpattern://" />
      )}
      {!brand && !stream && <LocalCameras choose={(url) => set('url')({ currentTarget: { value: url } })} />}
      {brand?.hint && <p class="hint">{brand.hint}</p>}
      {brand?.sub && <Switch label="Show its small picture in the grid" name="hasSub" checked={state.hasSub} onChange={flag('hasSub')} error={errorOf(error, 'sub_url')}
        hint="Recorded, and shown alone, is the large one. The small one spares the network and whoever watches many." />}
      {!brand && (
        <Field label="Address of the small picture, if there is one" name="sub_url" maxLength={1024} value={state.sub_url} onInput={set('sub_url')} autocomplete="off"
          autocapitalize="none" spellcheck={false} inputMode="url" error={errorOf(error, 'sub_url')} hint="Shown in the grid in place of the large one; never recorded." />
      )}
      <div class="columns">
        <Field label="User of the camera" name="username" value={state.username} onInput={set('username')} autocomplete="off" autocapitalize="none" spellcheck={false} />
        <Field label="Password of the camera" name="password" type="password" value={state.password} onInput={set('password')} autocomplete="new-password"
          hint={stream ? 'Empty keeps the present one.' : undefined} />
      </div>
      <Way {...{ state, set, error }} />
      {brand && state.address && <p class="hint">That makes <code class="url">{urlOf({ ...state, password: state.password && '***' }).replaceAll('%2A', '*')}</code></p>}
    </fieldset>
  );
}

// What only some networks and cameras need.
function Way({ state, set, error }) {
  const url = urlOf(state);
  if (!/^rtsp/i.test(url)) return null;
  const isOpen = state.transport !== 'auto' || isSecure(url) || error?.field === 'transport';
  return (
    <details class="more" open={isOpen}>
      <summary>How it is reached</summary>
      <Field label="Packets travel" name="transport" error={errorOf(error, 'transport')}
        hint="Leave it to the camera unless pictures break: TCP loses nothing, UDP is for cameras that know no other way.">
        {(given) => (
          <select {...given} value={state.transport} onChange={set('transport')}>
            <option value="auto">As the camera likes</option>
            <option value="tcp">Over TCP alone</option>
            {!isSecure(url) && <option value="udp">Over UDP alone</option>}
          </select>
        )}
      </Field>
      {isSecure(url) && (
        <Field label="Fingerprint of its certificate" name="tls_fingerprint" maxLength={95} value={state.tls_fingerprint} onInput={set('tls_fingerprint')}
          autocomplete="off" autocapitalize="none" spellcheck={false} error={errorOf(error, 'tls_fingerprint')}
          hint="SHA-256, 64 digits. Cameras have certificates that nobody vouches for: test once, and the answer names the one it shows." />
      )}
    </details>
  );
}

// Cameras that are plugged into the recorder itself; mostly there are none, and then nothing is said.
function LocalCameras({ choose }) {
  const [devices, setDevices] = useState([]);
  useEffect(() => {
    api('GET', '/devices').then((list) => setDevices(list.devices), () => setDevices([]));
  }, []);
  if (devices.length === 0) return null;
  return (
    <div class="actions">
      <span>Plugged in here:</span>
      {devices.map(({ url, name, path }) => <button key={url} type="button" class="button" onClick={() => choose(url)}>{name || path}</button>)}
    </div>
  );
}

function Keeping({ state, set, flag, error }) {
  return (
    <div class="card">
      <fieldset class="fieldset">
        <legend>What is done with it</legend>
        <Switch label="Switched on" name="enabled" checked={state.enabled} onChange={flag('enabled')} hint="Off: no connection to the camera, neither live nor recorded." />
        <Switch label="Record" name="record" checked={state.record} onChange={flag('record')} hint="Off: live view alone." />
      </fieldset>
      <details class="more">
        <summary>More: how long it is kept, what matters more</summary>
        <div class="columns">
          <Field label="Keep for" unit="days" name="retention_days" type="number" min={0} max={36500} value={state.retention_days} onInput={set('retention_days')}
            error={errorOf(error, 'retention_days')} hint="0 to 36500; 0: until space is needed. Empty: as in the settings." />
          <Field label="At most" unit="GB" name="max_storage_size" type="number" min={0} step="any" value={state.max_storage_gb} onInput={set('max_storage_gb')}
            error={errorOf(error, 'max_storage_size')} hint="Of recordings of this stream. Empty or 0: no limit of its own." />
          <Field label="Priority" name="priority" type="number" min={0} max={100} required value={state.priority} onInput={set('priority')}
            error={errorOf(error, 'priority')} hint="0 to 100. When memory or disk run short, streams with less lose pictures first." />
        </div>
      </details>
    </div>
  );
}

function Test({ state, stream }) {
  const [result, setResult] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const url = state.brand && !state.address ? '' : urlOf(state);
  const way = url ? wayOf(state, stream) : {};
  useEffect(() => setResult(null), [url, way.transport, way.tls_fingerprint]);
  async function run() {
    setBusy(true);
    setResult(null);
    try {
      const body = { url, ...way, ...(stream && { id: stream.id }) };
      setResult(await api('POST', '/streams/test', { body, timeoutMs: TEST_MS }));
    } catch (error) {
      const isMissing = error.status === 404 || error.status === 405;
      setResult({ ok: false, reason: isMissing ? 'This recorder can’t test before saving.' : error.message, advice: isMissing ? 'Save it: its card then says how it is doing.' : '' });
    }
    setBusy(false);
  }
  return (
    <div class="test">
      <button type="button" class="button" onClick={run} disabled={isBusy || !url}><Icon name="check" /><span>{isBusy ? 'Testing, up to 10 s …' : 'Test'}</span></button>
      <div role="status">{result && (result.ok ? <Passed result={result} /> : <Failed result={result} />)}</div>
    </div>
  );
}

function Failed({ result }) {
  return (
    <div class="problem">
      <p><strong>{sentence(result.reason)}</strong></p>
      {result.advice && <p>{sentence(result.advice)}</p>}
    </div>
  );
}

function Passed({ result }) {
  const [url, setUrl] = useState(null);
  useEffect(() => {
    if (!result.picture) return undefined;
    const bytes = Uint8Array.from(atob(result.picture), (c) => c.charCodeAt(0));
    const made = URL.createObjectURL(new Blob([bytes], { type: 'image/jpeg' }));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [result]);
  const rows = [
    ['Picture', `${result.width} × ${result.height}, ${codec(result.codec)}`],
    ['Frame rate', result.fps ? `${Math.round(result.fps * 10) / 10} fps` : 'not known yet'],
    ['Keyframe', result.keyframe_interval_seconds ? `every ${Math.round(result.keyframe_interval_seconds * 10) / 10} s` : 'not known yet'],
    ['Bitrate', result.bitrate_kbps ? `${(result.bitrate_kbps / 1000).toFixed(1)} Mbit/s` : 'not known yet'],
    ['Sound', result.audio ? codec(result.audio) : 'none'],
  ];
  return (
    <div class="passed">
      {url && <img src={url} alt="The camera’s picture just now" />}
      <div>
        <p class="good"><Icon name="check" />It works.</p>
        <dl class="pairs">{rows.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
        {result.advice?.length > 0 && <ul class="advice">{result.advice.map((text) => <li key={text}>{sentence(text)}</li>)}</ul>}
      </div>
    </div>
  );
}
