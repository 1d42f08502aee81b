// The only caller of fetch. An error names its request and says in words what was wrong.

const TIMEOUT_MS = 10000;

export async function api(method, path, body) {
  const request = `${method} ${path.split('?')[0]}`;
  const options = { method, signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { 'Content-Type': 'application/json' };
  }
  // From the origin: a page that was opened as http://admin:PASSWORD@… may not fetch relative URLs.
  const res = await fetch(`${location.origin}/api/v1${path}`, options).catch(() => null);
  if (!res) throw new Error(`${request}: the recorder can't be reached`);
  const data = await res.json().catch(() => null);
  if (!res.ok) throw new Error(`${request}: ${data?.error ?? `status ${res.status}`}`);
  if (!data) throw new Error(`${request}: the answer ended early`);
  return data;
}

export const recordingUrl = (id) => `/api/v1/recordings/${id}/download`;
