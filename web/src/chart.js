// Line charts, drawn by uPlot; loaded when the first one is shown.

import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { clock } from './format.js';

const HEIGHT = 150;

// `max`: the scale's fixed end; without it the scale follows the data.
export function draw(box, { names, unit, max }, data) {
  const style = getComputedStyle(box);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour('--quiet'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui, sans-serif' };
  const colours = [colour('--accent'), colour('--gold')];
  const options = {
    width: box.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: max ? [0, max] : (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.1] } },
    axes: [{ ...axis, space: 80, values: (_, ticks) => ticks.map((s) => clock(s * 1000)) }, { ...axis, size: 44, values: (_, ticks) => ticks.map((n) => `${n}`) }],
    series: [{}, ...names.map((label, n) => ({
      label: `${label} in ${unit}`,
      stroke: colours[n],
      width: 1.75,
      dash: n === 0 ? undefined : [6, 4],
      points: { show: false },
    }))],
  };
  return new uPlot(options, data, box);
}
