// The resource `session`: logging in, and the first visit, where the printed password is replaced.

import { useState } from 'preact/hooks';
import { api } from '../api.js';
import { Field, Problem, errorOf } from '../field.jsx';
import { Heading } from '../heading.jsx';

const PASSWORD_CHARS_MIN = 10;

export function Login({ onEnter }) {
  const [username, setUsername] = useState('admin');
  const [password, setPassword] = useState('');
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  async function submit(event) {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await api('POST', '/session', { body: { username, password } });
      onEnter(await api('GET', '/session'), password);
    } catch (problem) {
      const isWrong = problem.status === 401;
      setError(isWrong ? { message: 'That name and password don’t fit. Check both; capitals count.' } : problem);
      setBusy(false);
    }
  }
  return (
    <form class="card form" onSubmit={submit}>
      <Heading>Log in</Heading>
      <Problem error={error} />
      <Field label="User" name="username" autocomplete="username" autocapitalize="none" required value={username}
        onInput={(event) => setUsername(event.currentTarget.value)} />
      <Field label="Password" name="password" type="password" autocomplete="current-password" required value={password}
        onInput={(event) => setPassword(event.currentTarget.value)} />
      <button type="submit" class="button primary wide" disabled={isBusy}>Log in</button>
      <p class="hint">
        First visit? The recorder printed a password when it started for the first time, and keeps it in the file
        {' '}<code>initial-password</code> in its data directory until you choose your own.
      </p>
    </form>
  );
}

const NOTHING = { current: '', fresh: '', again: '' };

// What is wrong with a new password, in words, before it is sent.
function checkPassword(fresh, again) {
  if ([...fresh].length < PASSWORD_CHARS_MIN) {
    return { field: 'new', message: `A password has at least ${PASSWORD_CHARS_MIN} characters.` };
  }
  if (fresh !== again) return { field: 'again', message: 'Both have to be the same.' };
  return null;
}

// A form that changes the password: what its fields need, and `submit`. A change ends all sessions, so a new one begins
// at once; `onDone` gets it.
export function useNewPassword({ current = '', onDone }) {
  const [state, setState] = useState({ ...NOTHING, current });
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
      await api('PUT', '/password', { body: { current: state.current, new: state.fresh } });
      await api('POST', '/session', { body: { username, password: state.fresh } });
      const session = await api('GET', '/session');
      setState(NOTHING);
      onDone(session);
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  }
  return { fields: { state, setState, error }, error, isBusy, submit };
}

export function PasswordFields({ state, setState, error, askCurrent }) {
  const set = (name) => (event) => setState({ ...state, [name]: event.currentTarget.value });
  return (
    <>
      {askCurrent && (
        <Field label="Present password" name="current" type="password" autocomplete="current-password" required
          value={state.current} onInput={set('current')} error={errorOf(error, 'current')} />
      )}
      <Field label="New password" name="new" type="password" autocomplete="new-password" required value={state.fresh}
        onInput={set('fresh')} error={errorOf(error, 'new')} hint={`At least ${PASSWORD_CHARS_MIN} characters; several words are easy to remember and hard to guess.`} />
      <Field label="New password again" name="again" type="password" autocomplete="new-password" required value={state.again}
        onInput={set('again')} error={errorOf(error, 'again')} />
    </>
  );
}

// `current` is what was just typed at the login, null when the page was loaded anew.
export function SetUp({ session, current, onDone }) {
  const { fields, error, isBusy, submit } = useNewPassword({ current: current ?? '', onDone });
  return (
    <form class="card form" onSubmit={submit}>
      <p class="step">Step 1 of 2</p>
      <Heading title="Choose a password">Choose your own password</Heading>
      <p>
        The printed one was for the first visit. Yours replaces it, and from now on nobody gets in without it:
        there is no other way back than the recorder’s disk.
      </p>
      <Problem error={error} unless={['current', 'new', 'again']} />
      <input class="hidden" type="text" name="username" autocomplete="username" value={session.username} readOnly hidden />
      <PasswordFields {...fields} askCurrent={current === null || error?.field === 'current'} />
      <button type="submit" class="button primary wide" disabled={isBusy}>Save and go on</button>
    </form>
  );
}
