// What `system` said since the page was opened: the recorder keeps no history of its own.

// Two hours at one sample in 5 s.
const SAMPLES_MAX = 1440;
const samples = [];

export function remember(system) {
  samples.push({ at: Date.now() / 1000, system });
  if (samples.length > SAMPLES_MAX) samples.shift();
}

// When the first of them was said, in milliseconds.
export const beginning = () => samples[0].at * 1000;

// [times, values] as uPlot takes them; `pick` gets one answer of the API.
export function series(pick) {
  return [samples.map(({ at }) => at), samples.map(({ system }) => pick(system) ?? null)];
}

// Change per second of a counter that `pick` gives; null across a restart.
export function rates(pick) {
  const values = samples.map(({ at, system }, n) => {
    const before = samples[n - 1];
    if (!before) return null;
    const change = pick(system) - pick(before.system);
    return change >= 0 && at > before.at ? change / (at - before.at) : null;
  });
  return [samples.map(({ at }) => at), values];
}
