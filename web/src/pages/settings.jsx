// The resource `settings`: each with its meaning and range; none needs a restart.

import { useState } from 'preact/hooks';
import { api } from '../api.js';
import { tell } from '../dialog.jsx';
import { Field, Problem, Switch, errorOf } from '../field.jsx';
import { usePoll } from '../poll.js';

const GB = 1e9;
const MIB = 1 << 20;

// `unit` with `scale`: the API's number is the field's times the scale.
const GROUPS = [
  ['Recordings', [
    { name: 'retention_days', label: 'Keep recordings for', unit: 'days', min: 0, max: 36500, hint: '0 to 36500; 0: until space is needed.' },
    { name: 'max_storage_size', label: 'Recordings take at most', unit: 'GB', scale: GB, min: 0, hint: '0: no limit but the disk’s own.' },
    { name: 'auto_delete_oldest', label: 'Delete the oldest recordings when space is needed', hint: 'Off: recording stops before the disk is full. Protected recordings stay in any case.' },
    { name: 'segment_seconds', label: 'Length of a recording', unit: 'seconds', min: 10, max: 3600, hint: '10 to 3600; 900 is a quarter of an hour.' },
    { name: 'storage_path', label: 'Directory of the recordings', hint: 'Absolute, such as /media/disk/recordings. It is created if it is missing, and has to be writable.' },
  ]],
  ['Network', [
    { name: 'web_port', label: 'Port of this page', min: 1, max: 65535, hint: '1 to 65535. It moves at once: open the page under the new one.' },
    { name: 'web_auth_enabled', label: 'Ask for a password', hint: 'Off: everybody in your network may see and change everything.' },
    { name: 'allowed_hosts', label: 'Further names of the recorder', isList: true, hint: 'Host names under which the page may be opened beside its own, with commas between them; at most 16.' },
    { name: 'max_viewers', label: 'Viewers at once', min: 1, max: 128, hint: '1 to 128 live pictures, over all streams.' },
    { name: 'hls_window_seconds', label: 'How far live playlists go back', unit: 'seconds', min: 18, max: 300, hint: '18 to 300. More needs more memory while somebody watches by HLS.' },
  ]],
  ['When the disk is slow', [
    { name: 'buffer_size', label: 'Memory per stream', unit: 'KiB', min: 256, max: 65536, hint: '256 to 65536. What waits between camera and disk.' },
    { name: 'use_swap', label: 'Use a swap file', hint: 'What memory can’t hold waits in a file, best on another disk than the recordings.' },
    { name: 'swap_size', label: 'Size of the swap file', unit: 'MiB', scale: MIB, min: 0, max: 1048576, hint: '0 to 1048576; less than 1: none.' },
    { name: 'swap_path', label: 'Path of the swap file', hint: 'Absolute, in a directory that is there.' },
  ]],
  ['Limits', [
    { name: 'max_streams', label: 'Streams at most', min: 1, max: 512, hint: '1 to 512, not under the present number.' },
    { name: 'hw_accel_enabled', label: 'Use the hardware decoder', hint: 'Refused where the board has none.' },
  ]],
];
const KNOWN = GROUPS.flatMap(([, fields]) => fields);

const toText = (field, value) => {
  if (typeof value === 'boolean') return value;
  if (field.isList) return value.join(', ');
  return String(field.scale ? value / field.scale : value);
};
const fromText = (field, value) => {
  if (typeof value === 'boolean') return value;
  if (field.isList) return value.split(',').map((item) => item.trim()).filter(Boolean);
  if (field.min === undefined) return value.trim();
  return field.scale ? Math.round(Number(value) * field.scale) : Number(value);
};
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export function Settings() {
  const { data, error: loadError, reload } = usePoll('/settings', 0);
  const [edits, setEdits] = useState({});
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  if (!data) return <section class="card"><h2>Settings</h2><Problem error={loadError} /></section>;
  const changes = {};
  for (const field of KNOWN) {
    if (field.name in edits && field.name in data) {
      const value = fromText(field, edits[field.name]);
      if (!same(value, data[field.name])) changes[field.name] = value;
    }
  }
  const isChanged = Object.keys(changes).length > 0;
  async function save(event) {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await api('PUT', '/settings', { body: changes });
      setEdits({});
      await reload();
      tell('Saved. The settings hold from now on.');
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  }
  const drop = () => {
    setEdits({});
    setError(null);
  };
  return (
    <form class="card form" onSubmit={save} noValidate aria-labelledby="settings-title">
      <h2 id="settings-title">Settings</h2>
      <p class="hint">They hold at once, without a restart, all or none.</p>
      {GROUPS.map(([title, fields]) => (
        <fieldset class="fieldset" key={title}>
          <legend>{title}</legend>
          <div class="columns">
            {fields.filter(({ name }) => name in data).map((field) => (
              <Setting key={field.name} field={field} value={edits[field.name] ?? toText(field, data[field.name])} error={errorOf(error, field.name)}
                onChange={(value) => setEdits({ ...edits, [field.name]: value })} />
            ))}
          </div>
        </fieldset>
      ))}
      <Problem error={error} unless={KNOWN.map(({ name }) => name)} />
      <div class="actions">
        <button type="submit" class="button primary" disabled={!isChanged || isBusy}>Save settings</button>
        {isChanged && <button type="button" class="button" onClick={drop}>Discard changes</button>}
      </div>
    </form>
  );
}

function Setting({ field, value, error, onChange }) {
  const { name, label, hint, unit, min, max, scale } = field;
  if (typeof value === 'boolean') return <Switch {...{ name, label, hint, error }} checked={value} onChange={onChange} />;
  const input = min === undefined ? { type: 'text', autocapitalize: 'none', spellcheck: false } : { type: 'number', min, max, step: scale ? 'any' : 1, inputMode: 'numeric' };
  return <Field {...{ name, label, hint, unit, error }} {...input} value={value} onInput={(event) => onChange(event.currentTarget.value)} />;
}
