// The resource `password`.

import { useState } from 'preact/hooks';
import { api } from '../api.js';
import { tell } from '../dialog.jsx';
import { Problem } from '../field.jsx';
import { PasswordFields, changePassword, checkPassword } from './session.jsx';

const EMPTY = { current: '', fresh: '', again: '' };

export function Password() {
  const [state, setState] = useState(EMPTY);
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  async function submit(event) {
    event.preventDefault();
    const wrong = checkPassword(state.fresh, state.again);
    setError(wrong);
    if (wrong) return;
    setBusy(true);
    try {
      const { username } = await api('GET', '/session');
      await changePassword(username, state.current, state.fresh);
      setState(EMPTY);
      tell('The password was changed. Everybody else is logged out.');
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  }
  return (
    <form class="card form" onSubmit={submit} aria-labelledby="password-title">
      <h2 id="password-title">Password</h2>
      <div class="columns">
        <PasswordFields state={state} setState={setState} error={error} askCurrent />
      </div>
      <Problem error={error} unless={['current', 'new', 'again']} />
      <button type="submit" class="button" disabled={isBusy}>Change the password</button>
    </form>
  );
}
