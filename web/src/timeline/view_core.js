// What part of a day is seen: zoom, pan, ticks. Milliseconds in and out, no clock, no page.

const WIDTH_MS_MIN = 60 * 1000;
const TICK_PX_MIN = 76;
const S = 1000;
const MIN = 60 * S;
const H = 60 * MIN;
const STEPS_MS = [S, 2 * S, 5 * S, 10 * S, 15 * S, 30 * S, MIN, 2 * MIN, 5 * MIN, 10 * MIN, 15 * MIN, 30 * MIN, H, 2 * H, 3 * H, 4 * H, 6 * H, 12 * H];

export function dayOf(date) {
  const [y, m, d] = date.split('-').map(Number);
  // Local midnights: a day of a change of the clock has 23 or 25 hours.
  return { from: new Date(y, m - 1, d).getTime(), to: new Date(y, m - 1, d + 1).getTime() };
}

export function clamp(view, day) {
  const width = Math.min(Math.max(view.to - view.from, WIDTH_MS_MIN), day.to - day.from);
  const from = Math.min(Math.max(view.from, day.from), day.to - width);
  return { from, to: from + width };
}

// `factor` under 1 shows less; what is at `at` stays where it is.
export function zoom(view, day, factor, at) {
  const width = Math.min(Math.max((view.to - view.from) * factor, WIDTH_MS_MIN), day.to - day.from);
  const share = (at - view.from) / (view.to - view.from);
  return clamp({ from: at - share * width, to: at + (1 - share) * width }, day);
}

export const pan = (view, day, ms) => clamp({ from: view.from + ms, to: view.to + ms }, day);

export function ticks(view, day, px) {
  const wish = ((view.to - view.from) * TICK_PX_MIN) / Math.max(px, 1);
  const step = STEPS_MS.find((ms) => ms >= wish) ?? STEPS_MS[STEPS_MS.length - 1];
  const out = [];
  const first = Math.ceil((view.from - day.from) / step);
  for (let at = day.from + first * step; at <= view.to; at += step) out.push(at);
  return { step, at: out };
}

export const share = (view, at) => (at - view.from) / (view.to - view.from);

// The part of `span` that is seen, as shares of the width; null where nothing is.
export function part(view, from, to) {
  if (to <= view.from || from >= view.to) return null;
  return [Math.max(0, share(view, from)), Math.min(1, share(view, to))];
}
