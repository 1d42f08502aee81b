// The ledger of each stream as a day, with a player: a click plays at that moment.

import { useCallback, useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { Problem } from '../field.jsx';
import { at as inWords, clock, ledgerInWords, localDate, span, zone } from '../format.js';
import { Heading } from '../heading.jsx';
import { Icon } from '../icon.jsx';
import { replace } from '../route.js';
import { listen } from '../timeline/gestures.js';
import { Row, stateAt, useLedger } from '../timeline/row.jsx';
import { clamp, dayOf, pan, share, ticks, zoom } from '../timeline/view_core.js';
import { Export } from './export.jsx';
import { Player } from './player.jsx';

const KEY_STEP = 0.01;
const KEY_STEP_FAR = 0.1;
const TABLE_ROWS_MAX = 400;

export function Timeline({ route, streams, streamsError }) {
  const wished = route.params.get('at') ? Date.parse(route.params.get('at')) : null;
  const today = localDate(Date.now());
  const date = route.params.get('date') ?? (wished ? localDate(wished) : today);
  const wishedStream = route.params.get('stream');
  const rows = useMemo(() => {
    const known = (streams ?? []).map(({ id, name }) => ({ id, name }));
    const isMissing = wishedStream !== null && streams && !known.some(({ id }) => String(id) === wishedStream);
    // Recordings outlive their stream.
    return isMissing ? [...known, { id: Number(wishedStream), name: `Stream ${wishedStream} (deleted)` }] : known;
  }, [streams, wishedStream]);
  if (!streams) return <><Heading>Timeline</Heading><Problem error={streamsError} /></>;
  if (rows.length === 0) return <><Heading>Timeline</Heading><p class="card empty-state">Nothing is recorded yet: no camera is set up.</p></>;
  const stream = rows.find(({ id }) => String(id) === wishedStream)?.id ?? rows[0].id;
  return <Day key={date} date={date} today={today} rows={rows} stream={stream} wished={wished} />;
}

function Day({ date, today, rows, stream, wished }) {
  const day = useMemo(() => dayOf(date), [date]);
  const [view, setView] = useState(day);
  const [cursor, setCursor] = useState(wished);
  const [order, setOrder] = useState(null);
  const [choice, setChoice] = useState(null);
  // An address that names a moment plays it.
  useEffect(() => {
    if (wished === null) return;
    setCursor(wished);
    setOrder((old) => ({ stream, at: wished, turn: (old?.turn ?? 0) + 1 }));
  }, [wished]);
  const chosen = rows.find(({ id }) => id === stream);
  const goTo = (params) => replace('timeline', undefined, { date, stream, ...params });
  const play = useCallback((id, at) => {
    setCursor(at);
    setOrder((old) => ({ stream: id, at, turn: (old?.turn ?? 0) + 1 }));
    replace('timeline', undefined, { date, stream: id });
  }, [date]);
  const shift = (by) => {
    const [y, m, d] = date.split('-').map(Number);
    goTo({ date: localDate(new Date(y, m - 1, d + by)) });
  };
  const middle = (view.from + view.to) / 2;
  return (
    <>
      <div class="page-head">
        <Heading>Timeline</Heading>
        <div class="tools">
          <div class="group">
            <button type="button" class="button plain square" onClick={() => shift(-1)} aria-label="The day before"><Icon name="left" /></button>
            <label class="date-pick"><span class="hidden-text">Day</span>
              <input type="date" value={date} max={today} required onChange={(event) => event.currentTarget.value && goTo({ date: event.currentTarget.value })} />
            </label>
            <button type="button" class="button plain square" onClick={() => shift(1)} disabled={date >= today} aria-label="The day after"><Icon name="right" /></button>
          </div>
          {date !== today && <button type="button" class="button" onClick={() => goTo({ date: today })}>Today</button>}
          <div class="group">
            <button type="button" class="button plain square" onClick={() => setView(zoom(view, day, 2, cursor ?? middle))} aria-label="See more of the day"><Icon name="minus" /></button>
            <button type="button" class="button plain" onClick={() => setView(day)}>Whole day</button>
            <button type="button" class="button plain square" onClick={() => setView(zoom(view, day, 0.5, cursor ?? middle))} aria-label="See less of the day, larger"><Icon name="plus" /></button>
          </div>
        </div>
      </div>
      <div class="timeline-parts">
        <Player order={order} name={chosen.name} onTime={setCursor} />
        <Rows {...{ rows, stream, day, view, setView, cursor, choice, setChoice, play, onChoose: (id) => goTo({ stream: id }) }} />
        <Export stream={chosen} choice={choice} setChoice={setChoice} cursor={cursor} day={day} />
      </div>
    </>
  );
}

function useWidth(ref) {
  const [px, setPx] = useState(0);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setPx(Math.round(entry.contentRect.width)));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return px;
}

function Rows(props) {
  const { rows, stream, day, view, setView, cursor, choice, setChoice, play, onChoose } = props;
  const box = useRef(null);
  const ruler = useRef(null);
  const px = useWidth(ruler);
  const [pending, setPending] = useState(null);
  const [hover, setHover] = useState(null);
  const [ledgers, setLedgers] = useState({});
  const latest = useRef(null);
  // Where keys begin before anything was chosen: the present, or the beginning of a day that is over.
  const rest = Date.now() < day.to ? Math.max(day.from, Date.now()) : day.from;
  latest.current = { ...props, pending };
  useEffect(() => listen(box.current, {
    zoom: (factor, where) => setView((v) => zoom(v, latest.current.day, factor, v.from + where * (v.to - v.from))),
    pan: (by) => setView((v) => pan(v, latest.current.day, by * (v.to - v.from))),
    click: (where, row) => {
      const v = latest.current.view;
      if (row !== undefined) latest.current.play(Number(row), v.from + where * (v.to - v.from));
    },
    select: (from, to, row) => {
      const v = latest.current.view;
      const [a, b] = [from, to].map((x) => v.from + Math.min(1, Math.max(0, x)) * (v.to - v.from)).sort((x, y) => x - y);
      if (Number(row) !== latest.current.stream) latest.current.onChoose(Number(row));
      latest.current.setChoice({ from: a, to: b });
    },
    hover: (where, row, x) => setHover(where === null || row === undefined || where < 0 || where > 1 ? null : { where, row: Number(row), x }),
  }), []);

  function key(id) {
    return (event) => {
      const width = view.to - view.from;
      const now = pending?.id === id ? pending.at : cursor ?? rest;
      const step = width * (event.shiftKey ? KEY_STEP_FAR : KEY_STEP);
      const move = (at) => {
        const next = Math.min(Math.max(at, day.from), Math.min(day.to, Date.now()));
        setPending({ id, at: next });
        if (next < view.from || next > view.to) setView(clamp({ from: next - width / 2, to: next + width / 2 }, day));
      };
      const acts = {
        ArrowLeft: () => move(now - step),
        ArrowRight: () => move(now + step),
        PageUp: () => move(now - width * KEY_STEP_FAR),
        PageDown: () => move(now + width * KEY_STEP_FAR),
        Home: () => move(view.from),
        End: () => move(view.to),
        '+': () => setView(zoom(view, day, 0.5, now)),
        '=': () => setView(zoom(view, day, 0.5, now)),
        '-': () => setView(zoom(view, day, 2, now)),
        Escape: () => setPending(null),
        Enter: () => {
          setPending(null);
          play(id, now);
        },
        i: () => setChoice({ from: now, to: Math.max(choice?.to ?? 0, now + 1000) }),
        o: () => setChoice({ from: Math.min(choice?.from ?? now - 60000, now - 1000), to: now }),
      };
      acts[' '] = acts.Enter;
      const act = acts[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    };
  }
  const scale = ticks(view, day, px);
  const hovered = hover && view.from + hover.where * (view.to - view.from);
  return (
    <section class="card timeline" aria-label="Streams over the day">
      <div class="rows" ref={box}>
        <div class="row ruler-row" aria-hidden="true">
          <span class="row-name" />
          <div class="ruler" ref={ruler}>
            {scale.at.map((at) => <Tick key={at} at={at} step={scale.step} where={share(view, at)} />)}
            {hovered && <span class="hover" style={{ left: `${hover.where * 100}%` }}>{clock(hovered)}<br />{stateAt(ledgers[hover.row]?.spans ?? [], hovered)}</span>}
          </div>
        </div>
        {rows.map((row) => (
          <LedgerRow key={row.id} row={row} report={setLedgers} {...{ day, view, px, rest, cursor }} pending={pending?.id === row.id ? pending.at : null}
            choice={row.id === stream ? choice : null} isChosen={row.id === stream} onKey={key(row.id)} onFocus={() => row.id !== stream && onChoose(row.id)} />
        ))}
      </div>
      <Legend />
      <p class="hint">Times are in {zone(day.from)}. Wheel or pinch zooms, dragging moves, a click plays, Shift and dragging chooses a span to export.</p>
      <p class="hidden-text" id="timeline-keys">Arrow keys move, Enter plays, plus and minus zoom, I and O mark the beginning and the end of a span to export.</p>
      <AsTable ledger={ledgers[stream]} view={view} name={rows.find(({ id }) => id === stream).name} />
    </section>
  );
}

function LedgerRow({ row, report, ...given }) {
  const ledger = useLedger(row.id, given.day);
  useEffect(() => report((all) => ({ ...all, [row.id]: ledger })), [ledger.spans, ledger.shelter, ledger.error]);
  return <Row stream={row} ledger={ledger} {...given} />;
}

function Tick({ at, step, where }) {
  const d = new Date(at);
  const two = (n) => String(n).padStart(2, '0');
  const text = `${two(d.getHours())}:${two(d.getMinutes())}${step < 60000 ? `:${two(d.getSeconds())}` : ''}`;
  const side = where < 0.02 ? 'tick first' : where > 0.98 ? 'tick last' : 'tick';
  return <span class={side} style={{ left: `${where * 100}%` }}>{text}</span>;
}

const Legend = () => (
  <ul class="legend">
    <li><span class="swatch recorded" />recorded</li>
    <li><span class="swatch kept" />protected</li>
    <li><span class="swatch deleted" />deleted since</li>
    <li><span class="swatch fault" />gap: camera, disk or power</li>
    <li><span class="swatch off" />switched off</li>
  </ul>
);

// The same for whoever does not see the bars; also the place where each gap's reason is read at leisure.
function AsTable({ ledger, view, name }) {
  const [isOpen, setOpen] = useState(false);
  const seen = (ledger?.spans ?? []).filter(({ from, to }) => to > view.from && from < view.to);
  const isKept = ({ from, to }) => ledger.shelter.some((s) => s.from < to && s.to > from);
  return (
    <details class="more" open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{name} as a table</summary>
      {isOpen && (
        <div class="scroll" tabIndex={0} role="region" aria-label={`Table of ${name}`}>
          <table class="table">
            <caption>{name}, {inWords(view.from)} to {inWords(view.to)}, {zone(view.from)}{seen.length > TABLE_ROWS_MAX ? `; the first ${TABLE_ROWS_MAX} of ${seen.length} spans, zoom in for the others` : ''}</caption>
            <thead><tr><th scope="col">From</th><th scope="col">To</th><th scope="col">Length</th><th scope="col">What</th></tr></thead>
            <tbody>
              {seen.slice(0, TABLE_ROWS_MAX).map((row) => (
                <tr key={row.from}>
                  <td>{clock(row.from)}</td><td>{clock(row.to)}</td><td>{span((row.to - row.from) / 1000)}</td>
                  <td>{ledgerInWords(row.state)}{row.state === 'recorded' && isKept(row) ? ', protected in part or whole' : ''}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}
