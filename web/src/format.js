// Values in words, as people read them. Times are in the viewer's zone.

const STATUS = {
  connecting: 'Connecting',
  connected: 'Live',
  reconnecting: 'Reconnecting',
  error: 'Error',
  disabled: 'Switched off',
};

export const statusInWords = (status) => STATUS[status] ?? status;

const two = (n) => String(n).padStart(2, '0');

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

// 65 is 1:05, 3665 is 1:01:05
export function length(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const h = Math.floor(total / 3600);
  const m = Math.floor(total / 60) % 60;
  return h > 0 ? `${h}:${two(m)}:${two(total % 60)}` : `${m}:${two(total % 60)}`;
}

// 65 is 1 min 5 s
export function span(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const parts = [
    [Math.floor(total / 86400), 'd'],
    [Math.floor(total / 3600) % 24, 'h'],
    [Math.floor(total / 60) % 60, 'min'],
    [total % 60, 's'],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return '0 s';
  return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(' ');
}

export function days(n) {
  if (n === null || n === undefined) return '';
  if (n < 1) return `${Math.max(1, Math.round(n * 24))} h`;
  if (n < 10) return `${n.toFixed(1)} days`;
  return `${Math.round(n)} days`;
}

const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const timeOnly = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const dateOnly = new Intl.DateTimeFormat(undefined, { dateStyle: 'full' });

export const at = (time) => dateTime.format(new Date(time));
export const clock = (time) => timeOnly.format(new Date(time));
export const date = (time) => dateOnly.format(new Date(time));

// For <input type="date"> and "datetime-local", which want local time without a zone.
export function localDate(time) {
  const d = new Date(time);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
}
export function localDateTime(time) {
  const d = new Date(time);
  return `${localDate(d)}T${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

// 2025-03-09T10:00:00Z: what the API takes, in whole seconds.
export const rfc3339 = (time) => `${new Date(time).toISOString().slice(0, 19)}Z`;

// Europe/Berlin (UTC+01:00)
export function zone(time = Date.now()) {
  const minutes = -new Date(time).getTimezoneOffset();
  const sign = minutes < 0 ? '−' : '+';
  const abs = Math.abs(minutes);
  const offset = `UTC${sign}${two(Math.floor(abs / 60))}:${two(abs % 60)}`;
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return name && name !== 'UTC' ? `${name} (${offset})` : offset;
}

const CODECS = { h264: 'H.264', h265: 'H.265', mjpeg: 'MJPEG', aac: 'AAC', opus: 'Opus', flac: 'FLAC', pcma: 'G.711', pcmu: 'G.711' };
export const codec = (name) => CODECS[String(name).toLowerCase()] ?? name;

// What arrives, for a stream that delivers; what was asked for says little.
export function picture(actual) {
  if (!actual) return [];
  const facts = [`${actual.width} × ${actual.height}`];
  if (actual.fps > 0) facts.push(`${Math.round(actual.fps * 10) / 10} fps`);
  facts.push(codec(actual.codec));
  if (actual.bitrate > 0) facts.push(`${(actual.bitrate / 1e6).toFixed(1)} Mbit/s`);
  if (actual.keyframe_interval > 0) facts.push(`keyframe every ${Math.round(actual.keyframe_interval * 10) / 10} s`);
  facts.push(actual.audio ? `sound: ${codec(actual.audio)}` : 'no sound');
  return facts;
}

// Ledger states: what a person calls them, and how they are drawn ('off': meant so; 'fault': not meant so).
export const LEDGER = {
  recorded: ['Recorded', 'recorded'],
  deleted: ['Recorded, deleted since', 'deleted'],
  record_off: ['Recording switched off', 'off'],
  disabled: ['Stream switched off', 'off'],
  not_configured: ['Not set up then', 'off'],
  source_down: ['Camera didn’t deliver', 'fault'],
  source_loss: ['Lost between camera and recorder', 'fault'],
  disk_full: ['Disk full', 'fault'],
  disk_readonly: ['Disk read-only', 'fault'],
  disk_error: ['Disk error', 'fault'],
  disk_missing: ['Disk missing', 'fault'],
  disk_stalled: ['Disk too slow', 'fault'],
  overload: ['Recorder overloaded', 'fault'],
  restart: ['Recorder restarted', 'fault'],
  power_off: ['Recorder off', 'fault'],
  clock_step: ['Clock was set', 'fault'],
};
export const ledgerInWords = (state) => LEDGER[state]?.[0] ?? state.replaceAll('_', ' ');
