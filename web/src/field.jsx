// A form's parts: label, meaning, range and error stay together, for the eye and for a screen reader.

import { useEffect, useRef } from 'preact/hooks';

// Which field an error of the API is about; the others are shown above the form.
export const errorOf = (error, name) => (error?.field === name ? error.message : null);

export function Problem({ error, unless }) {
  if (!error || unless?.includes(error.field)) return null;
  return <p class="problem" role="alert">{error.message ?? String(error)}</p>;
}

// `children` is a function of what the input needs, or absent for a plain input of the other properties.
export function Field({ label, name, hint, error, unit, children, ...input }) {
  const id = `field-${name}`;
  const hintId = hint ? `${id}-hint` : null;
  const errorId = error ? `${id}-error` : null;
  const ref = useRef(null);
  useEffect(() => {
    if (error) ref.current?.focus();
  }, [error]);
  const given = {
    id,
    name,
    ref,
    'aria-describedby': [errorId, hintId].filter(Boolean).join(' ') || undefined,
    'aria-invalid': error ? 'true' : undefined,
  };
  return (
    <div class={error ? 'field wrong' : 'field'}>
      <label for={id}>{label}{unit && <span class="unit"> in {unit}</span>}</label>
      {children ? children(given) : <input {...given} {...input} />}
      {error && <p class="field-error" id={errorId}>{error}</p>}
      {hint && <p class="hint" id={hintId}>{hint}</p>}
    </div>
  );
}

export function Switch({ label, name, hint, error, checked, onChange, disabled }) {
  const id = `field-${name}`;
  const described = [error && `${id}-error`, hint && `${id}-hint`].filter(Boolean).join(' ') || undefined;
  return (
    <div class={error ? 'field wrong' : 'field'}>
      <label class="switch" for={id}>
        <input id={id} name={name} type="checkbox" role="switch" checked={checked} disabled={disabled}
          aria-describedby={described} onChange={(event) => onChange(event.currentTarget.checked)} />
        <span class="switch-track" aria-hidden="true" />
        <span>{label}</span>
      </label>
      {error && <p class="field-error" id={`${id}-error`}>{error}</p>}
      {hint && <p class="hint" id={`${id}-hint`}>{hint}</p>}
    </div>
  );
}
