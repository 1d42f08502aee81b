// One stream's day: a bar that is drawn, and a slider for keys and screen readers.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { LEDGER, clock, ledgerInWords, rfc3339 } from '../format.js';
import { usePoll } from '../poll.js';
import { part, share } from './view_core.js';

const TODAY_MS = 10000;
const HATCH_PX = 6;

// The ledger of `day` with its times as numbers, and what is protected in it.
export function useLedger(stream, day) {
  const range = `start=${encodeURIComponent(rfc3339(day.from))}&end=${encodeURIComponent(rfc3339(day.to))}`;
  const every = Date.now() < day.to ? TODAY_MS : 0;
  const ledger = usePoll(`/streams/${stream}/ledger?${range}`, every);
  const kept = usePoll(`/recordings?stream_id=${stream}&${range}&protected=true`, every);
  const spans = useMemo(
    () => (ledger.data?.spans ?? []).map(({ start, end, state }) => ({ from: Date.parse(start), to: Date.parse(end), state })),
    [ledger.data],
  );
  const shelter = useMemo(
    () => (kept.data?.recordings ?? []).filter((r) => r.protected).map((r) => ({ from: Date.parse(r.start_time), to: Date.parse(r.end_time) })),
    [kept.data],
  );
  return { spans, shelter, error: ledger.error, isLoaded: Boolean(ledger.data), reload: () => Promise.all([ledger.reload(), kept.reload()]) };
}

export function spanAt(spans, at) {
  return spans.find(({ from, to }) => from <= at && at < to);
}

export function stateAt(spans, at) {
  const found = spanAt(spans, at);
  return found ? ledgerInWords(found.state) : 'Not yet';
}

function useTheme() {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const query = matchMedia('(prefers-color-scheme: dark)');
    const change = () => setTheme((n) => n + 1);
    query.addEventListener('change', change);
    return () => query.removeEventListener('change', change);
  }, []);
  return theme;
}

function draw(canvas, { spans, shelter, view, px }) {
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name).trim();
  const scale = devicePixelRatio || 1;
  const height = canvas.clientHeight;
  canvas.width = Math.round(px * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext('2d');
  pen.scale(scale, scale);
  for (const { from, to, state } of spans) {
    const seen = part(view, from, to);
    if (!seen) continue;
    const x = seen[0] * px;
    // What lasted a moment is still seen.
    const width = Math.max((seen[1] - seen[0]) * px, 1.5);
    const kind = LEDGER[state]?.[1] ?? 'fault';
    if (kind === 'recorded') {
      pen.fillStyle = colour('--recorded');
      pen.fillRect(x, 0, width, height);
    } else if (kind === 'deleted') {
      pen.fillStyle = colour('--deleted');
      pen.fillRect(x, 0, width, height);
    } else if (kind === 'fault') {
      hatch(pen, x, width, height, colour('--fault-back'), colour('--fault'));
    }
  }
  const future = part(view, Date.now(), Number.MAX_SAFE_INTEGER);
  if (future) {
    pen.fillStyle = colour('--panel');
    pen.fillRect(future[0] * px + 1, 1, px, height - 2);
  }
  pen.fillStyle = colour('--kept');
  for (const { from, to } of shelter) {
    const seen = part(view, from, to);
    if (seen) pen.fillRect(seen[0] * px, 0, Math.max((seen[1] - seen[0]) * px, 1.5), 6);
  }
}

// Stripes: a gap must not be told by its colour alone.
function hatch(pen, x, width, height, back, front) {
  pen.save();
  pen.beginPath();
  pen.rect(x, 0, width, height);
  pen.clip();
  pen.fillStyle = back;
  pen.fillRect(x, 0, width, height);
  pen.strokeStyle = front;
  pen.lineWidth = 1.5;
  pen.beginPath();
  const first = Math.floor((x - height) / HATCH_PX) * HATCH_PX;
  for (let at = first; at < x + width; at += HATCH_PX) {
    pen.moveTo(at, height);
    pen.lineTo(at + height, 0);
  }
  pen.stroke();
  pen.restore();
}

const percent = (n) => `${(Math.min(1, Math.max(0, n)) * 100).toFixed(3)}%`;

export function Row({ stream, ledger, day, view, px, rest, cursor, pending, choice, isChosen, onKey, onFocus }) {
  const canvas = useRef(null);
  const theme = useTheme();
  const { spans, shelter, error } = ledger;
  useLayoutEffect(() => {
    if (px > 0) draw(canvas.current, { spans, shelter, view, px });
  }, [spans, shelter, view, px, theme]);
  const at = pending ?? cursor ?? rest;
  const inView = (ms) => ms !== null && ms >= view.from && ms <= view.to;
  const picked = choice && part(view, choice.from, choice.to);
  return (
    <div class={isChosen ? 'row chosen' : 'row'} data-stream={stream.id}>
      <span class="row-name" id={`row-${stream.id}`}>{stream.name}</span>
      <div class="bar" role="slider" tabIndex={0} aria-labelledby={`row-${stream.id}`} aria-describedby="timeline-keys"
        aria-valuemin={0} aria-valuemax={Math.round((day.to - day.from) / 1000)} aria-valuenow={Math.round((at - day.from) / 1000)}
        aria-valuetext={`${clock(at)}, ${stateAt(spans, at)}`} onKeyDown={onKey} onFocus={onFocus}>
        <canvas ref={canvas} aria-hidden="true" />
        {picked && <span class="picked" style={{ left: percent(picked[0]), width: percent(picked[1] - picked[0]) }} />}
        {isChosen && inView(cursor) && <span class="cursor" style={{ left: percent(share(view, cursor)) }} />}
        {inView(pending) && <span class="cursor pending" style={{ left: percent(share(view, pending)) }} />}
        {error && <span class="row-error">{error.message}</span>}
      </div>
    </div>
  );
}
