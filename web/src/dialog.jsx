// A question that has to be answered first, and short news that don't interrupt.

import { useEffect, useRef, useState } from 'preact/hooks';
import { Problem } from './field.jsx';

// `onYes` may fail: the dialog stays and says why. Its words name what goes.
export function Confirm({ title, children, yes, isDangerous, onYes, onClose }) {
  const dialog = useRef(null);
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => {
    const opener = document.activeElement;
    dialog.current.showModal();
    return () => opener?.isConnected && opener.focus();
  }, []);
  async function accept(event) {
    event.preventDefault();
    setBusy(true);
    try {
      await onYes();
      onClose();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  }
  return (
    <dialog ref={dialog} class="dialog" aria-labelledby="dialog-title" onClose={onClose}>
      <form onSubmit={accept}>
        <h2 id="dialog-title">{title}</h2>
        <div class="dialog-text">{children}</div>
        <Problem error={error} />
        <div class="actions">
          <button type="submit" class={isDangerous ? 'button danger' : 'button primary'} disabled={isBusy}>{yes}</button>
          <button type="button" class="button" onClick={() => dialog.current.close()}>Cancel</button>
        </div>
      </form>
    </dialog>
  );
}

const NEWS_MS = 6000;
let show = null;

export function tell(text) {
  show?.(text);
}

export function News() {
  const [text, setText] = useState('');
  useEffect(() => {
    show = setText;
    return () => {
      show = null;
    };
  }, []);
  useEffect(() => {
    if (!text) return undefined;
    const timer = setTimeout(() => setText(''), NEWS_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return <div class={text ? 'news' : 'news empty'} role="status">{text}</div>;
}
