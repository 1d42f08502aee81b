// Values in words, as people read them.

const STATUS = {
  connecting: 'Connecting',
  connected: 'Connected',
  reconnecting: 'Reconnecting',
  error: 'Error',
  disabled: 'Switched off',
};

export const statusInWords = (status) => STATUS[status] ?? status;

export function size(bytes) {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let n = bytes;
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}

export function length(seconds) {
  const two = (n) => String(n).padStart(2, '0');
  const h = Math.floor(seconds / 3600);
  const m = Math.floor(seconds / 60) % 60;
  const s = seconds % 60;
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

const when = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
export const time = (rfc3339) => when.format(new Date(rfc3339));

export function system(s) {
  const free = `${size(s.storage_free)} free of ${size(s.storage_total)}`;
  return `${s.streams_active} of ${s.streams_total} streams connected · ${free} · version ${s.version}`;
}

// What arrives, for a stream that is connected; what was asked for says little.
export function picture(stream) {
  const a = stream.actual;
  if (!a) return '';
  const rate = a.bitrate > 0 ? `, ${(a.bitrate / 1e6).toFixed(1)} Mbit/s` : '';
  return `${a.width}×${a.height}, ${a.fps} fps, ${a.codec}${rate}${a.audio ? `, ${a.audio}` : ''}`;
}
