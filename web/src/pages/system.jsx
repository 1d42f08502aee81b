// The resource `system`: numbers and charts, then settings, password, update, log, backup.

import { useEffect, useRef, useState } from 'preact/hooks';
import { api } from '../api.js';
import { Confirm, tell } from '../dialog.jsx';
import { Problem } from '../field.jsx';
import { clock, days, size, span } from '../format.js';
import { Heading } from '../heading.jsx';
import { Backup } from './backup.jsx';
import { Password } from './password.jsx';
import { Settings } from './settings.jsx';
import { beginning, rates, series } from './system_history.js';
import { Update } from './update.jsx';

export function System({ system, streams, reloadStreams }) {
  return (
    <>
      <Heading>System</Heading>
      {system ? <Numbers system={system} streams={streams ?? []} /> : <p class="quiet">Asking the recorder …</p>}
      {system && <Charts system={system} />}
      <Storage />
      <Settings />
      <Password />
      <Update />
      <Log />
      <Backup reloadStreams={reloadStreams} />
    </>
  );
}

// What a recorder of this version may tell beside the numbers that it always has.
export const temperatureOf = (system) => system.temperature ?? system.cpu_temperature ?? null;
export const writtenOf = (system) => system.bytes_written ?? null;

function Numbers({ system, streams }) {
  const temperature = temperatureOf(system);
  const written = writtenOf(system);
  const numbers = [
    ['Streams live', `${system.streams_active} of ${system.streams_total}`],
    ['Recordings', String(system.recordings_total)],
    ['Processor', `${system.cpu_usage} %`],
    ['Memory', `${system.memory_usage} %`],
    ['Disk', `${system.storage_usage} %`, `${size(system.storage_free)} free of ${size(system.storage_total)}`],
    temperature !== null && ['Temperature', `${Math.round(temperature)} °C`],
    written !== null && ['Written', size(written), 'since the start'],
    ['Running for', span(system.uptime), `version ${system.version}`],
  ].filter(Boolean);
  const name = (id) => streams.find((stream) => stream.id === id)?.name ?? `Stream ${id}`;
  return (
    <>
      <dl class="numbers">
        {numbers.map(([label, value, more]) => (
          <div key={label} class="card"><dt>{label}</dt><dd>{value}</dd>{more && <dd class="quiet">{more}</dd>}</div>
        ))}
      </dl>
      {system.buffers.length > 0 && (
        <section class="card">
          <h2>Buffers</h2>
          <p class="hint">What waits for the disk, and how long the disk may stall from now on without a loss.</p>
          <div class="scroll" tabIndex={0} role="region" aria-label="Buffers">
            <table class="table">
              <thead><tr><th scope="col">Stream</th><th scope="col" class="number">Waits</th><th scope="col" class="number">In memory</th><th scope="col" class="number">In the swap file</th><th scope="col" class="number">Good for</th><th scope="col" class="number">Kept for</th><th scope="col" class="number">Packets lost</th></tr></thead>
              <tbody>
                {system.buffers.map((row) => (
                  <tr key={row.stream_id}>
                    <th scope="row">{name(row.stream_id)}</th>
                    <td class="number">{row.seconds_held.toFixed(1)} s</td>
                    <td class="number">{size(row.ram_bytes)}</td>
                    <td class="number">{size(row.spilled_bytes)}</td>
                    <td class="number">{row.seconds_headroom === null ? 'not known' : span(row.seconds_headroom)}</td>
                    <td class="number">{keptFor(system, row.stream_id)}</td>
                    <td class="number">{row.packets_dropped}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </section>
      )}
    </>
  );
}

function keptFor(system, id) {
  const forecast = system.forecast.find((f) => f.stream_id === id);
  return forecast && forecast.days_kept !== null ? days(forecast.days_kept) : '–';
}

function Charts({ system }) {
  const charts = [
    ['Processor and memory', '%', [['Processor', series((s) => s.cpu_usage)], ['Memory', series((s) => s.memory_usage)]], 100],
    ['Waiting for the disk', 'MB', [['Buffers', series((s) => s.buffers.reduce((sum, b) => sum + b.ram_bytes + b.spilled_bytes, 0) / 1e6)]]],
    temperatureOf(system) !== null && ['Temperature', '°C', [['Temperature', series(temperatureOf)]]],
    writtenOf(system) !== null && ['Written', 'MB/s', [['Written', rates((s) => writtenOf(s) / 1e6)]]],
    writtenOf(system) === null && ['Disk used', 'GB', [['Used', series((s) => s.storage_used / 1e9)]]],
  ].filter(Boolean);
  return (
    <section class="card" aria-label="Charts">
      <h2>Since {clock(beginning())}, when this page was opened</h2>
      <div class="charts">
        {charts.map(([title, unit, lines, max]) => <Chart key={title} {...{ title, unit, lines, max }} />)}
      </div>
    </section>
  );
}

function Chart({ title, unit, lines, max }) {
  const box = useRef(null);
  const plot = useRef(null);
  const data = [lines[0][1][0], ...lines.map(([, [, values]]) => values)];
  const latest = useRef(data);
  latest.current = data;
  useEffect(() => {
    const target = box.current;
    let isGone = false;
    let watch = null;
    const make = ({ draw }) => {
      if (isGone) return;
      const build = () => {
        plot.current?.destroy();
        plot.current = draw(target, { names: lines.map(([name]) => name), unit, max }, latest.current);
      };
      build();
      watch = new ResizeObserver(() => plot.current.setSize({ width: target.clientWidth, height: 150 }));
      watch.observe(target);
      query.addEventListener('change', build);
      watch.build = build;
    };
    const query = matchMedia('(prefers-color-scheme: dark)');
    import('../chart.js').then(make, () => {});
    return () => {
      isGone = true;
      if (watch) query.removeEventListener('change', watch.build);
      watch?.disconnect();
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(data), [data[0].length, data[0][data[0].length - 1]]);
  const now = lines.map(([name, [, values]]) => `${name} ${format(values[values.length - 1])} ${unit}`).join(', ');
  return (
    <figure class="chart">
      <figcaption>{title}<span class="quiet">{now}</span></figcaption>
      <div ref={box} class="chart-box" role="img" aria-label={`${title} over time; now ${now}`} />
    </figure>
  );
}

const format = (n) => (n === null || n === undefined ? '–' : n >= 100 ? String(Math.round(n)) : n.toFixed(1));

// Shown when the recordings' disk is another or a missing one.
function Storage() {
  const [reasons, setReasons] = useState([]);
  const [isAsking, setAsking] = useState(false);
  const look = async () => {
    const { streams } = await api('GET', '/streams').catch(() => ({ streams: [] }));
    const found = streams.map((s) => s.status_detail).filter((text) => /foreign storage|disk missing/i.test(text ?? ''));
    setReasons([...new Set(found)]);
  };
  useEffect(() => {
    look();
  }, []);
  if (reasons.length === 0) return null;
  return (
    <section class="card">
      <h2>The recordings’ disk</h2>
      <div class="problem">{reasons.map((text) => <p key={text}>{text}</p>)}</div>
      <p>Nothing is written until the right disk is back, or until you say that this is the one.</p>
      <button type="button" class="button" onClick={() => setAsking(true)}>Use this disk …</button>
      {isAsking && (
        <Confirm title="Use this disk for the recordings?" yes="Use this disk" onClose={() => setAsking(false)}
          onYes={async () => {
            await api('POST', '/storage/adopt');
            tell('The disk is taken on.');
            await look();
          }}>
          <p>From now on recordings go to the disk that is in the storage path now. Recordings of the disk before stay in the list, and can be played when it is back.</p>
        </Confirm>
      )}
    </section>
  );
}

function Log() {
  const [error, setError] = useState(null);
  async function save() {
    setError(null);
    try {
      const text = await api('GET', '/system/log', { as: 'text' });
      saveText(text, 'lightnvr.log', 'text/plain');
    } catch (problem) {
      setError(problem);
    }
  }
  return (
    <section class="card">
      <h2>Log</h2>
      <p class="hint">What the recorder noted last; it holds no passwords. Send it along when you report a problem.</p>
      <Problem error={error} />
      <button type="button" class="button" onClick={save}>Save the log</button>
    </section>
  );
}

export function saveText(text, name, type) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
