// The only caller of fetch. An error says in words what was wrong, and which field is to blame.
//
// Every request carries `X-Requested-With: lightnvr`: the recorder then answers a missing login without the
// challenge that would open the browser's own prompt. Whether the recorder can be reached is known here, too.

const TIMEOUT_MS = 15000;
const PROBE_MS = 2000;
const HEADERS = { 'X-Requested-With': 'lightnvr' };

// 'lost' and 'found': the connection; 'unauthorized': the session is over.
export const events = new EventTarget();
let probe = null;

export class ApiError extends Error {
  constructor(message, status, field) {
    super(message);
    this.status = status;
    this.field = field;
  }
}

// A JSON document, or what `as` says: 'text', 'blob', or 'none' for an answer whose body is not wanted. `file` is sent
// as it is.
export async function api(method, path, { body, file, signal, timeoutMs = TIMEOUT_MS, as = 'json' } = {}) {
  const options = { method, headers: { ...HEADERS }, credentials: 'same-origin', cache: 'no-store' };
  options.signal = anySignal(signal, AbortSignal.timeout(timeoutMs));
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers['Content-Type'] = 'application/json';
  }
  if (file) {
    options.body = file;
    options.headers['Content-Type'] = 'application/octet-stream';
  }
  let res;
  try {
    // From the origin: a page that was opened as http://admin:PASSWORD@… may not fetch relative URLs.
    res = await fetch(`${location.origin}/api/v1${path}`, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    lost();
    throw new ApiError('The recorder can’t be reached.', 0);
  }
  found();
  // The answer to HEAD has no words.
  if (!res.ok && method === 'HEAD') return api('GET', path, { signal, timeoutMs, as: 'none' });
  if (!res.ok) await refuse(res, path);
  if (method === 'HEAD') return null;
  if (as === 'none') {
    await res.body?.cancel();
    return null;
  }
  const data = await res[as]().catch(() => null);
  if (data === null) throw new ApiError('The recorder’s answer ended early. Try again.', 0);
  return data;
}

async function refuse(res, path) {
  const data = await res.json().catch(() => null);
  if (res.status === 401 && path !== '/session') events.dispatchEvent(new Event('unauthorized'));
  let text = data?.error ?? `The recorder answered with status ${res.status}.`;
  const wait = Number(res.headers.get('Retry-After'));
  if (res.status === 429 && wait > 0) text = `Too many tries. Wait ${wait} s and try again.`;
  if (res.status === 404 && /^not found$/i.test(text)) text = 'This recorder doesn’t offer that.';
  throw new ApiError(sentence(text), res.status, data?.field);
}

// The recorder's errors begin in lower case and end without a full stop, as log lines do.
export function sentence(text) {
  if (!text) return '';
  const first = text[0].toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

function anySignal(...signals) {
  const given = signals.filter(Boolean);
  if (given.length === 1) return given[0];
  const controller = new AbortController();
  for (const signal of given) {
    if (signal.aborted) controller.abort(signal.reason);
    signal.addEventListener('abort', () => controller.abort(signal.reason), { once: true });
  }
  return controller.signal;
}

function lost() {
  if (probe) return;
  events.dispatchEvent(new Event('lost'));
  // Any answer will do: an unwell recorder can be reached.
  probe = setInterval(() => {
    if (document.hidden) return;
    const options = { headers: HEADERS, cache: 'no-store', signal: AbortSignal.timeout(PROBE_MS) };
    fetch(`${location.origin}/healthz`, options).then(found, () => {});
  }, PROBE_MS);
}

function found() {
  if (!probe) return;
  clearInterval(probe);
  probe = null;
  events.dispatchEvent(new Event('found'));
}

export const downloadUrl = (id) => `/api/v1/recordings/${id}/download`;
// `view` is { id, quality }; the small feed of a camera is quality `sub`.
export function streamingPath({ id, quality }, what, params = {}) {
  const query = new URLSearchParams(quality === 'sub' ? { ...params, quality } : params).toString();
  return `/streaming/${id}/${what}${query ? `?${query}` : ''}`;
}
export const streamingUrl = (view, what) => `/api/v1${streamingPath(view, what)}`;
