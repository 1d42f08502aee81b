// The resource `system/update`: what runs, sending an update, and what becomes of it, in words.

import { useEffect, useState } from 'preact/hooks';
import { api } from '../api.js';
import { Confirm } from '../dialog.jsx';
import { Problem } from '../field.jsx';

const LOOK_MS = 2000;
const UPLOAD_MS = 30 * 60 * 1000;

const STATES = {
  idle: 'Ready for an update.',
  receiving: 'The update is being sent.',
  checking: 'The update is being checked.',
  writing: 'The update is being written to the other slot. Recording goes on.',
  restarting: 'The recorder restarts into the new version.',
  trial: 'This version is on trial: it stays when it records again, or when it was well for five minutes. Else the one before comes back by itself.',
};

export function Update() {
  const [update, setUpdate] = useState(null);
  const [chosen, setChosen] = useState(null);
  const [error, setError] = useState(null);
  const [isSending, setSending] = useState(false);
  async function look() {
    if (document.hidden) return;
    try {
      setUpdate(await api('GET', '/system/update'));
    } catch {
      // It restarts: the page's own banner says so.
    }
  }
  useEffect(() => {
    look();
    const timer = setInterval(look, LOOK_MS);
    return () => clearInterval(timer);
  }, []);
  async function send() {
    const file = chosen;
    setChosen(null);
    setError(null);
    setSending(true);
    try {
      await api('POST', '/system/update', { file, timeoutMs: UPLOAD_MS });
    } catch (problem) {
      setError(problem);
    }
    setSending(false);
    await look();
  }
  if (!update) return null;
  const isBusy = isSending || update.state !== 'idle';
  return (
    <section class="card">
      <h2>Update</h2>
      <p>Version {update.version}{update.slot && <> in slot {update.slot.toUpperCase()}</>}.</p>
      {!update.supported ? (
        <p class="hint">This recorder does not run from LightNVR’s image for a card: build the new version and start it in place of this one.</p>
      ) : (
        <>
          <p role="status">{STATES[update.state] ?? update.state}</p>
          {['receiving', 'checking', 'writing'].includes(update.state) && (
            <progress max="100" value={update.percent} aria-label="Update" />
          )}
          <Last last={update.last} />
          <Problem error={error} />
          <div class="actions">
            <label class="button file">
              <input type="file" accept=".update" class="hidden-text" disabled={isBusy} onChange={(event) => {
                const [file] = event.currentTarget.files;
                event.currentTarget.value = '';
                if (file) setChosen(file);
              }} />
              Send an update …
            </label>
          </div>
        </>
      )}
      {chosen && (
        <Confirm title="Install this update?" yes="Install" onYes={() => { send(); }} onClose={() => setChosen(null)}>
          <p>{chosen.name}. It is checked first. Then the recorder restarts once; recording pauses for about half a minute. If the new version is not well, the present one comes back by itself.</p>
        </Confirm>
      )}
    </section>
  );
}

function Last({ last }) {
  if (!last || last.outcome === 'trial' || last.outcome === 'writing') return null;
  const what = last.version ? `The update to ${last.version}` : 'The last update';
  const when = new Date(last.time).toLocaleString();
  if (last.outcome === 'confirmed') return <p class="hint">{what} was found well ({when}).</p>;
  const ends = { refused: 'was refused', failed: 'was not installed', rolled_back: 'was taken back' };
  return <div class="problem"><p>{what} {ends[last.outcome]} ({when}): {last.reason}.</p></div>;
}
