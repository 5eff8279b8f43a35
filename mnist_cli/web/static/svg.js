// Building SVG, and the scales of its axes.

/** Return an SVG element with attributes and children; `text` is understood. */
export function svg(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// A marker by Matplotlib's name, as in the charts of `mnist report`, around (0, 0).
const MARKERS = {
  o: 'M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z',
  s: 'M-3.5-3.5h7v7h-7z',
  '^': 'M0-4.5L4.5 3.5h-9z',
  v: 'M0 4.5L4.5-3.5h-9z',
  D: 'M0-5L5 0L0 5L-5 0z',
  P: 'M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z',
  X: 'M-4.5-2.5l2-2L0-2L2.5-4.5l2 2L2 0L4.5 2.5l-2 2L0 2L-2.5 4.5l-2-2L-2 0z',
  p: 'M0-4.5L4.3-1.4L2.6 3.6h-5.2L-4.3-1.4z',
};
const DASHES = { '-': 'none', '--': '7 4', ':': '2 4', '-.': '8 4 2 4' };

/** Return the path of a line, thick under thin, so that lines that coincide remain visible. */
export const linePath = (places, { line_style: style, line_width: width }) =>
  svg('path', {
    class: 'line',
    d: places.map(([x, y], index) => `${index ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join(''),
    'stroke-dasharray': DASHES[style] ?? 'none',
    'stroke-width': width,
  });

/** Return a series' marker at a place; that of a dashed line is hollow. */
export const markerAt = ([x, y], { marker, line_style: style }) =>
  svg('path', {
    class: style === '-' ? 'marker' : 'marker is-hollow',
    d: MARKERS[marker] ?? MARKERS.o,
    transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
  });

/**
 * Return {to(value), ticks} of an axis over `values` that runs from `start` to `end` in pixels.
 *
 * Shares lie close around the values; others begin at 0, or are logarithmic if the values span a
 * factor of 10, as in the charts of `mnist report`. `only` are the values that may have a tick.
 */
export function createScale(values, [start, end], { unit, scale }, most, only = null) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  const isLog = low > 0 && (scale === 'log' || (unit !== 'share' && !only && high >= 10 * low));
  const bent = isLog ? Math.log : (value) => value;
  if (unit === 'share') {
    const pad = Math.max(0.08 * (high - low), 0.001);
    [low, high] = [Math.max(0, low - pad), Math.min(1, high + pad)];
  } else if (!isLog && !only) [low, high] = [Math.min(0, low), high || 1];
  const [from, span] = [bent(low), bent(high) - bent(low) || 1];
  const to = (value) => start + ((bent(value) - from) / span) * (end - start);
  const candidates = only ?? (isLog ? logTicks(low, high) : linearTicks(low, high, most));
  return { to, ticks: thinned(candidates, most) };
}

function linearTicks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, index) => (first + index) * step);
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const factors = decades < 1.5 ? [1, 2, 5] : decades < 3.5 ? [1, 3] : [1];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    ticks.push(...factors.map((factor) => Number(`${factor}e${power}`)));
  }
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

/** Return every n-th of some ticks, counted from the last, so that at most `most` are left. */
function thinned(ticks, most) {
  const every = Math.ceil(ticks.length / most);
  return ticks.filter((_, index) => (ticks.length - 1 - index) % every === 0);
}
