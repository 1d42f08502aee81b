// Where we are: `#/page/id?key=value`. A page's filters live in the address, so that going back restores them.

import { useEffect, useState } from 'preact/hooks';

export function parse(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?');
  const [page = '', id] = path.split('/');
  return { page: page || 'live', id, params: new URLSearchParams(query) };
}

export function href(page, id, params) {
  const given = Object.entries(params ?? {}).filter(([, value]) => value !== '' && value !== undefined && value !== null);
  const query = new URLSearchParams(given).toString();
  return `#/${page}${id === undefined ? '' : `/${id}`}${query ? `?${query}` : ''}`;
}

export function go(page, id, params) {
  location.hash = href(page, id, params);
}

// Without a new entry in the history.
export function replace(page, id, params) {
  history.replaceState(null, '', href(page, id, params));
  window.dispatchEvent(new HashChangeEvent('hashchange'));
}

export function useRoute() {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const update = () => setRoute(parse(location.hash));
    addEventListener('hashchange', update);
    return () => removeEventListener('hashchange', update);
  }, []);
  return route;
}
