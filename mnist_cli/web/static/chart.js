// Charts in SVG: lines and bars, whose figures hover, focus and a table beside each show.

import { element, setText } from './dom.js';
import { createScale, linePath, markerAt, svg } from './svg.js';

const HEIGHT = 260;
const BAR_HEIGHT = 44;
const MOST_MARKERS = 12;

/** Return a figure as a person reads it: a share as 98.92%, others with about three digits. */
export function figure(value, { unit } = {}) {
  if (value === null || value === undefined) return '–';
  if (unit === 'share') return `${(100 * value).toFixed(2)}%`;
  const text = fixed(value, decimalsOf(value, unit));
  return unit ? `${text} ${unit}` : text;
}

function decimalsOf(value, unit) {
  if (value >= 99.95 || Number.isInteger(value)) return 0;
  if (value >= 9.995) return 1;
  return value >= 0.995 || unit ? 2 : 4;
}

const fixed = (value, decimals) =>
  value.toLocaleString('en', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });

/** Return the label of a tick: short, without a unit but %. */
function tickText(value, { unit }) {
  if (unit === 'share') return `${Number((100 * value).toFixed(2))}%`;
  return Number(value.toPrecision(3)).toLocaleString('en', { maximumFractionDigits: 4 });
}

/**
 * Return {root, show(isShown)} for a chart of GET /api/records and its `series`.
 *
 * `isShown(number)` says whether a series is drawn. It is drawn anew whenever its width changes.
 */
export function createChart(chart, series) {
  const draw = { lines: drawLines, bars: drawBars }[chart.kind];
  const picture = svg('svg', { 'aria-hidden': 'true' });
  const tip = element('div', { class: 'tip', 'aria-hidden': 'true', hidden: true });
  const told = element('span', { class: 'hidden', role: 'status' });
  const plot = element(
    'div',
    {
      class: 'plot',
      tabindex: 0,
      role: 'application',
      'aria-label': `${chart.title}. Arrow keys go from figure to figure; a table follows.`,
    },
    tip,
    told,
  );
  plot.prepend(picture);
  const root = element('figure', { class: 'chart' }, element('figcaption', { text: chart.title }), plot, tableOf(chart, series));
  let isShown = () => true;
  let stops = []; // what hover and keys go along: {x, y, title, rows, marks}
  let current = -1;

  function redraw() {
    const width = plot.clientWidth;
    if (!width) return; // not visible
    stops = draw(picture, width, chart, series, isShown);
    point(-1);
  }

  /** Show the figures of a stop, none for -1. */
  function point(index, isKey = false) {
    current = index;
    picture.querySelector('.pointed')?.remove();
    tip.hidden = index < 0;
    if (index < 0) return;
    const { x, y, title, rows, marks } = stops[index];
    picture.append(svg('g', { class: 'pointed' }, ...marks()));
    tip.replaceChildren(
      element('p', { class: 'tip-title', text: title }),
      ...rows.map(([number, name, value]) =>
        element(
          'p',
          {},
          number === null ? null : swatch(series[number]),
          element('span', { text: name }),
          element('b', { text: value }),
        ),
      ),
    );
    const left = x > plot.clientWidth / 2 ? x - tip.offsetWidth - 14 : x + 14;
    tip.style.left = `${Math.max(0, Math.min(left, plot.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${Math.max(0, Math.min(y - tip.offsetHeight / 2, plot.clientHeight - tip.offsetHeight))}px`;
    if (isKey) setText(told, `${title}: ${rows.map(([, name, value]) => `${name} ${value}`).join(', ')}`);
  }

  function hover(event) {
    const box = picture.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const distances = stops.map((stop) => stop.distance(x, y));
    const nearest = distances.indexOf(Math.min(...distances));
    if (nearest !== current) point(nearest);
  }

  plot.addEventListener('pointermove', hover);
  plot.addEventListener('pointerdown', hover);
  plot.addEventListener('pointerleave', () => point(-1));
  plot.addEventListener('blur', () => point(-1));
  plot.addEventListener('focus', () => {
    if (plot.matches(':focus-visible') && stops.length) point(Math.max(0, current), true);
  });
  plot.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const end = { Home: 0, End: stops.length - 1, Escape: -1 }[event.key];
    if ((step === undefined && end === undefined) || !stops.length) return;
    event.preventDefault();
    point(end ?? Math.max(0, Math.min(current + step, stops.length - 1)), true);
  });
  new ResizeObserver(redraw).observe(plot);
  return {
    root,
    show(wanted) {
      isShown = wanted;
      redraw();
    },
  };
}

/** Return a short piece of a series' line with its marker, for legends and tips. */
export function swatch(each) {
  const ends = [[1, 7], [27, 7]];
  const drawn = svg('svg', { class: 'swatch', width: 28, height: 14, 'aria-hidden': 'true' });
  drawn.append(coloured(each, linePath(ends, each), markerAt([14, 7], each)));
  return drawn;
}

function coloured(each, ...drawn) {
  const group = svg('g', { class: 'series' }, ...drawn);
  group.style.setProperty('--series', `var(--${each.color})`);
  return group;
}

function setSize(picture, width, height) {
  picture.setAttribute('width', width);
  picture.setAttribute('height', height);
  picture.setAttribute('viewBox', `0 0 ${width} ${height}`);
}

/** Draw lines of points, and return a stop for each x, or each number of a point. */
function drawLines(picture, width, chart, series, isShown) {
  setSize(picture, width, HEIGHT);
  const shown = chart.points.map((points, number) => (isShown(number) ? points : []));
  const all = shown.flat();
  if (!all.length) {
    picture.replaceChildren(svg('text', { x: 8, y: 24, text: 'No figures to draw.' }));
    return [];
  }
  const bottom = HEIGHT - 44;
  const numbers = [...new Set(all.map(([x]) => x))].sort((a, b) => a - b);
  const y = createScale(all.map((point) => point[1]), [bottom, 14], chart.y, 5);
  const left = 18 + 7 * Math.max(...y.ticks.map((tick) => tickText(tick, chart.y).length));
  const right = width - 14;
  const most = Math.max(2, Math.floor((right - left) / 64));
  const x = createScale(numbers, [left + 6, right], chart.x, most, chart.step ? null : numbers);
  const place = ([px, py]) => [x.to(px), y.to(py)];
  picture.replaceChildren(
    ...y.ticks.map((tick) => svg('path', { class: 'grid', d: `M${left} ${y.to(tick)}H${right}` })),
    ...y.ticks.map((tick) => svg('text', { x: left - 8, y: y.to(tick) + 4, 'text-anchor': 'end', text: tickText(tick, chart.y) })),
    ...x.ticks.map((tick) => svg('text', { x: x.to(tick), y: bottom + 18, 'text-anchor': 'middle', text: tickText(tick, chart.x) })),
    svg('path', { class: 'axis', d: `M${left} ${bottom}H${right}` }),
    svg('text', { x: right, y: HEIGHT - 6, 'text-anchor': 'end', text: axisName(chart.x) }),
    svg('text', { x: 0, y: HEIGHT - 6, text: axisName(chart.y) }),
    ...shown.flatMap((points, number) => {
      if (!points.length) return [];
      const every = Math.ceil(points.length / MOST_MARKERS);
      const places = points.map(place);
      const marked = places.filter((_, index) => (places.length - 1 - index) % every === 0);
      return coloured(series[number], linePath(places, series[number]), ...marked.map((each) => markerAt(each, series[number])));
    }),
  );
  return rowsOf(chart, shown).map(({ title, found }) => {
    const at = found.map(([number, point]) => [number, place(point)]);
    const best = at.reduce((top, [, each]) => (each[1] < top[1] ? each : top), at[0][1]);
    return {
      x: best[0],
      y: best[1],
      title,
      rows: found.map(([number, point]) => [number, series[number].name, pointText(chart, point)]),
      distance: (px, py) =>
        Math.min(...at.map(([, each]) => Math.hypot(each[0] - px, chart.step ? each[1] - py : 0))),
      marks: () => [
        ...(chart.step ? [] : [svg('path', { class: 'rule', d: `M${best[0]} 14V${bottom}` })]),
        ...at.map(([number, each]) => coloured(series[number], svg('circle', { cx: each[0], cy: each[1], r: 7 }))),
      ],
    };
  });
}

const axisName = ({ name, unit }) => (unit && unit !== 'share' && !name.includes('seconds') ? `${name}, ${unit}` : name);

/** Return the points of each x, or of each number if x differs: {title, found: [[series, point]]}. */
function rowsOf(chart, points) {
  const rows = new Map();
  points.forEach((each, number) => {
    each.forEach((point, index) => {
      const key = chart.step ? index + 1 : point[0];
      rows.set(key, [...(rows.get(key) ?? []), [number, point]]);
    });
  });
  return [...rows.entries()]
    .sort(([a], [b]) => a - b)
    .map(([key, found]) => ({ key, title: `${chart.step || chart.x.name} ${key.toLocaleString('en')}`, found }));
}

const pointText = (chart, [x, y]) =>
  figure(y, chart.y) + (chart.step ? ` after ${figure(x, chart.x)}` : '');

/** Draw a bar from 0 for each series, or the mean of shares with its interval; return their stops. */
function drawBars(picture, width, chart, series, isShown) {
  const shown = chart.bars.map((bar, number) => ({ ...bar, number })).filter(({ number }) => isShown(number));
  setSize(picture, width, Math.max(1, shown.length) * BAR_HEIGHT + 4);
  if (!shown.length) picture.replaceChildren(svg('text', { x: 8, y: 24, text: 'No figures to draw.' }));
  const isShare = chart.x.unit === 'share';
  const ends = shown.flatMap(({ mean, ci95, runs }) =>
    isShare ? [...runs, mean - (ci95 ?? 0), Math.min(1, mean + (ci95 ?? 0))] : [0, ...runs],
  );
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const to = (value) => 6 + ((value - low) / (high - low || 1)) * (width - 12);
  const rows = shown.map((bar, row) => {
    const each = series[bar.number];
    const top = row * BAR_HEIGHT;
    const middle = top + 30;
    const drawn = isShare
      ? [
          svg('path', { class: 'track-line', d: `M6 ${middle}H${width - 6}` }),
          ...(bar.ci95 ? [svg('path', { class: 'whisker', d: `M${to(bar.mean - bar.ci95)} ${middle}H${to(Math.min(1, bar.mean + bar.ci95))}` })] : []),
          markerAt([to(bar.mean), middle], each),
        ]
      : [
          svg('rect', { class: each.line_style === '-' ? 'bar-fill' : 'bar-fill is-hollow', x: to(0), y: middle - 6, width: Math.max(1, to(bar.mean) - to(0)), height: 12, rx: 3 }),
          ...(bar.runs.length > 1 ? bar.runs.map((run) => svg('circle', { class: 'run', cx: to(run), cy: middle, r: 3 })) : []),
        ];
    return coloured(
      each,
      svg('text', { x: 0, y: top + 16, text: each.name }),
      svg('text', { class: 'value', x: width, y: top + 16, 'text-anchor': 'end', text: meanText(chart, bar) }),
      ...drawn,
    );
  });
  if (shown.length) picture.replaceChildren(...rows);
  return shown.map((bar, row) => ({
    x: to(bar.mean),
    y: row * BAR_HEIGHT + 22,
    title: `${series[bar.number].name}: ${meanText(chart, bar)}`,
    rows: bar.runs.map((run, index) => [null, `run ${index + 1}`, figure(run, chart.x)]),
    distance: (_, py) => Math.abs(row * BAR_HEIGHT + 22 - py),
    marks: () => [svg('rect', { class: 'frame', x: 1, y: row * BAR_HEIGHT + 1, width: width - 2, height: BAR_HEIGHT - 2, rx: 4 })],
  }));
}

/** Return a mean with the half-width of its 95% interval, if there are several runs. */
function meanText({ x }, { mean, ci95 }) {
  if (ci95 === null) return figure(mean, x);
  if (x.unit === 'share') return `${(100 * mean).toFixed(2)} ± ${(100 * ci95).toFixed(2)}%`;
  const decimals = decimalsOf(mean, 'any');
  return `${fixed(mean, decimals)} ± ${fixed(ci95, decimals)} ${x.unit ?? ''}`.trim();
}

/** Return the chart's figures as a table that can be opened, for those who cannot see the chart. */
function tableOf(chart, series) {
  const row = (tag, cells) =>
    element('tr', {}, ...cells.map((text, index) => element(index ? tag : 'th', index ? { text } : { scope: 'row', text })));
  let header;
  let rows;
  if (chart.kind === 'bars') {
    header = ['model', 'mean', '95% interval', 'runs'];
    rows = chart.bars.map((bar, number) => [
      series[number].name,
      figure(bar.mean, chart.x),
      bar.ci95 !== null ? `${figure(bar.mean - bar.ci95, chart.x)} to ${figure(bar.mean + bar.ci95, chart.x)}` : '–',
      bar.runs.map((run) => figure(run, chart.x)).join(', '),
    ]);
  } else {
    header = [chart.step || chart.x.name, ...series.map(({ name }) => name)];
    rows = rowsOf(chart, chart.points).map(({ key, found }) => {
      const of = new Map(found);
      return [
        key.toLocaleString('en'),
        ...series.map((_, number) => (of.has(number) ? pointText(chart, of.get(number)) : '–')),
      ];
    });
  }
  const head = element('tr', {}, ...header.map((text) => element('th', { scope: 'col', text })));
  return element(
    'details',
    { class: 'figures' },
    element('summary', { text: 'Figures as a table' }),
    scrolling(`${chart.title}, as a table`, element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows.map((cells) => row('td', cells))))),
  );
}

/** Return a table in a region that scrolls by itself, also by keys. */
export const scrolling = (label, table) =>
  element('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': label }, table);
