// Curves that grow and histograms, in SVG; what was drawn is changed, never made anew.

import { element, setText } from './dom.js';

const [WIDTH, HEIGHT] = [320, 150];
const MAX_POINTS = 600;
const BAR_HEIGHT = 48;

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/**
 * Return {root, clear(), add(curve, x, y), extend(x)} of a chart with named curves over steps.
 * `format` says a value; with `highest` the y axis ends there, else it starts at 0.
 */
export function createCurves(title, curves, { format, highest = null }) {
  const lines = curves.map((curve) => svg('polyline', { class: `live-curve ${curve.class}`, points: '' }));
  const grid = [0, 0.5, 1].map((share) =>
    svg('line', { class: 'live-grid', x1: 0, x2: WIDTH, y1: share * HEIGHT, y2: share * HEIGHT }),
  );
  const drawing = svg('svg', { viewBox: `0 -4 ${WIDTH} ${HEIGHT + 8}`, preserveAspectRatio: 'none', role: 'img' }, ...grid, ...lines);
  const values = curves.map(() => element('strong'));
  const legend = element('p', { class: 'live-legend' }, ...curves.map((curve, index) =>
    element('span', { class: curve.class }, element('i'), `${curve.name} `, values[index]),
  ));
  const [top, bottom, end] = [element('span'), element('span'), element('span')];
  const root = element(
    'figure',
    { class: 'card live-curves' },
    element('figcaption', {}, element('h3', { text: title }), legend),
    element('div', { class: 'live-plot' }, element('div', { class: 'live-scale', 'aria-hidden': 'true' }, top, bottom), drawing),
    element('p', { class: 'note live-x', 'aria-hidden': 'true' }, element('span', { text: '0' }), end),
  );
  let points = curves.map(() => []);
  let length = 1;
  let frame = 0;

  function draw() {
    frame = 0;
    const all = points.flat().map(([, y]) => y);
    const high = highest ?? Math.max(0.1, ...all.filter(Number.isFinite));
    const low = highest === null ? 0 : Math.floor(Math.min(0.9, ...all) * 10) / 10;
    const last = Math.max(length, ...points.flat().map(([x]) => x));
    points.forEach((curve, index) => {
      const text = curve.map(([x, y]) => {
        const share = (y - low) / (high - low || 1);
        return `${((x / last) * WIDTH).toFixed(1)},${((1 - share) * HEIGHT).toFixed(1)}`;
      });
      lines[index].setAttribute('points', text.join(' '));
      setText(values[index], curve.length ? format(curve.at(-1)[1]) : '–');
    });
    setText(top, format(high));
    setText(bottom, low === 0 ? '0' : format(low));
    setText(end, `${last.toLocaleString('en')} steps`);
    const told = curves.map(({ name }, index) => `${name} ${values[index].textContent}`);
    drawing.setAttribute('aria-label', `${title} so far: ${told.join(', ')}`);
  }

  const redraw = () => {
    frame ||= requestAnimationFrame(draw);
  };
  draw();
  return {
    root,
    clear() {
      points = curves.map(() => []);
      length = 1;
      redraw();
    },
    add(curve, x, y) {
      points[curve].push([x, y]);
      if (points[curve].length > MAX_POINTS) points[curve] = points[curve].filter((_, at) => at % 2);
      redraw();
    },
    extend(x) {
      if (length !== x) redraw();
      length = x;
    },
  };
}

/** Return {root, update(layer)} of a layer's weights: {name, low, high, counts, gradient}. */
export function createHistogram(name) {
  const shape = svg('path', { class: 'live-bars' });
  const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${BAR_HEIGHT}`, preserveAspectRatio: 'none', role: 'img' }, shape);
  const [low, high, gradient] = [element('span'), element('span'), element('span')];
  const root = element(
    'div',
    { class: 'live-layer' },
    element('h4', { text: name }),
    drawing,
    element('p', { class: 'note live-x' }, low, gradient, high),
  );
  return {
    root,
    update(layer) {
      const most = Math.max(1, ...layer.counts);
      const width = WIDTH / layer.counts.length;
      const bars = layer.counts.map((count, at) => {
        const height = (count / most) * BAR_HEIGHT;
        return `M${at * width} ${BAR_HEIGHT}v${-height}h${width - 1}v${height}z`;
      });
      shape.setAttribute('d', bars.join(''));
      setText(low, layer.low.toFixed(2));
      setText(high, layer.high.toFixed(2));
      setText(gradient, `gradient ${layer.gradient.toExponential(1)}`);
      drawing.setAttribute('aria-label', `Weights of ${name}: from ${layer.low.toFixed(2)} to ${layer.high.toFixed(2)}`);
    },
  };
}
