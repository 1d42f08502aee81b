// Asks for a resource again and again while the tab is seen, and at once when the recorder is back.

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { api, events } from './api.js';

// A `path` of null asks for nothing.
export function usePoll(path, everyMs) {
  const [state, setState] = useState({ data: null, error: null, path: null });
  const turn = useRef(0);
  const isBusy = useRef(false);
  const load = useCallback(async () => {
    if (path === null) return;
    turn.current += 1;
    const mine = turn.current;
    isBusy.current = true;
    try {
      const data = await api('GET', path);
      if (mine === turn.current) setState({ data, error: null, path });
    } catch (error) {
      // What was known stays: the banner says that it is old.
      if (mine === turn.current) setState((old) => ({ data: old.path === path ? old.data : null, error, path }));
    }
    if (mine === turn.current) isBusy.current = false;
  }, [path]);
  useEffect(() => {
    let timer = null;
    const run = () => {
      clearInterval(timer);
      if (document.hidden) return;
      load();
      if (everyMs) timer = setInterval(() => isBusy.current || load(), everyMs);
    };
    run();
    document.addEventListener('visibilitychange', run);
    events.addEventListener('found', run);
    return () => {
      turn.current += 1;
      isBusy.current = false;
      clearInterval(timer);
      document.removeEventListener('visibilitychange', run);
      events.removeEventListener('found', run);
    };
  }, [load, everyMs]);
  const isFresh = state.path === path;
  return { data: isFresh ? state.data : null, error: isFresh ? state.error : null, reload: load };
}
