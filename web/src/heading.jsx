// A page's heading takes the focus when the page opens, so that a screen reader says where we are.

import { useEffect, useRef } from 'preact/hooks';

export function Heading({ children, title }) {
  const ref = useRef(null);
  const text = title ?? children;
  useEffect(() => {
    document.title = `${text} · LightNVR`;
  }, [text]);
  useEffect(() => ref.current.focus({ preventScroll: true }), []);
  return <h1 ref={ref} tabIndex={-1}>{children}</h1>;
}

export const Status = ({ status, children }) => <span class="status" data-status={status}>{children}</span>;
