// The resource `backup`: streams and settings as one JSON file.

import { useState } from 'preact/hooks';
import { api } from '../api.js';
import { Confirm, tell } from '../dialog.jsx';
import { Problem } from '../field.jsx';
import { localDate } from '../format.js';
import { saveText } from './system.jsx';

// What the recorder takes.
const FILE_BYTES_MAX = 64 << 10;

export function Backup({ reloadStreams }) {
  const [withPasswords, setWithPasswords] = useState(false);
  const [error, setError] = useState(null);
  const [chosen, setChosen] = useState(null);
  async function save() {
    setError(null);
    try {
      const backup = await api('GET', `/backup${withPasswords ? '?passwords=true' : ''}`);
      saveText(`${JSON.stringify(backup, null, 2)}\n`, `lightnvr-backup-${localDate(Date.now())}.json`, 'application/json');
    } catch (problem) {
      setError(problem);
    }
  }
  async function choose(event) {
    const input = event.currentTarget;
    const [file] = input.files;
    input.value = '';
    if (!file) return;
    setError(null);
    try {
      if (file.size > FILE_BYTES_MAX) throw new Error('too large');
      setChosen({ name: file.name, body: JSON.parse(await file.text()) });
    } catch {
      setError({ message: `${file.name} is no backup: it has to be the JSON file that was saved here.` });
    }
  }
  async function restore() {
    await api('PUT', '/backup', { body: chosen.body });
    await reloadStreams();
    tell('Streams and settings are restored.');
  }
  return (
    <section class="card">
      <h2>Backup</h2>
      <p class="hint">Streams and settings in one file, so that a card can be flashed anew. Recordings and the login’s password are not in it.</p>
      <label class="check">
        <input type="checkbox" checked={withPasswords} onChange={(event) => setWithPasswords(event.currentTarget.checked)} />
        With the cameras’ passwords (then keep the file safe)
      </label>
      <Problem error={error} />
      <div class="actions">
        <button type="button" class="button" onClick={save}>Save a backup</button>
        <label class="button file"><input type="file" accept="application/json,.json" class="hidden-text" onChange={choose} />Restore …</label>
      </div>
      {chosen && (
        <Confirm title="Restore this backup?" yes="Restore" isDangerous onYes={restore} onClose={() => setChosen(null)}>
          <p>{describe(chosen)} Settings become those of the file, and so do streams of the same name; other streams and all recordings stay.</p>
        </Confirm>
      )}
    </section>
  );
}

function describe({ name, body }) {
  const count = Array.isArray(body?.streams) ? body.streams.length : null;
  return count === null ? `${name}.` : `${name} has ${count} ${count === 1 ? 'stream' : 'streams'}.`;
}
