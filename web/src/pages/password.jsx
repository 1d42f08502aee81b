// The resource `password`.

import { tell } from '../dialog.jsx';
import { Problem } from '../field.jsx';
import { PasswordFields, useNewPassword } from './session.jsx';

export function Password() {
  const { fields, error, isBusy, submit } = useNewPassword({ onDone: () => tell('The password was changed. Everybody else is logged out.') });
  return (
    <form class="card form" onSubmit={submit} aria-labelledby="password-title">
      <h2 id="password-title">Password</h2>
      <div class="columns">
        <PasswordFields {...fields} askCurrent />
      </div>
      <Problem error={error} unless={['current', 'new', 'again']} />
      <button type="submit" class="button" disabled={isBusy}>Change the password</button>
    </form>
  );
}
