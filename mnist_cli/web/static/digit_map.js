// The view "Map": test digits as points by what a layer makes of them, the drawing among them.

import { fromBase64, getJson, latest, postJson } from './api.js';
import { element, listed, plural, setText } from './dom.js';
import { digitCanvas, drawDigit } from './seen.js';
import { svg } from './svg.js';

const PIXELS = 28 * 28;
const POLL_MS = 300;
const MARGIN = 18;
const REACH = 30; // pixels from a point within which it is shown
const SMALL = 520; // pixels of a narrow field
const MOST_MISREAD = 60;
const METHODS = {
  pca: { title: 'PCA', note: 'PCA projects the outputs of the layer onto the two directions in which they vary most.' },
  tsne: { title: 't-SNE', note: 't-SNE places digits so that neighbours in the layer stay neighbours; distances between groups mean nothing.' },
};

export function mount(panel, page) {
  const field = createField(page);
  const progress = element('progress', { max: 1, value: 0, 'aria-label': 'Computing the map' });
  const phase = element('p', { class: 'note', role: 'status' });
  const working = element('div', { class: 'working', hidden: true }, progress, phase);
  const note = element('p', { class: 'note' });
  const facts = element('p', { class: 'sentence' });
  const landing = element('p', { class: 'landing' });
  const misread = element('div', { class: 'misread' });
  const models = page.models.filter(({ name }) => name !== 'live'); // which is in no file
  const controls = createControls(models, load);
  panel.append(
    element('h2', { class: 'hidden', text: 'Map of test digits' }),
    element('div', { class: 'card map' }, controls.root, note, element('div', { class: 'field' }, field.root, working), landing, facts, misread),
  );
  let isOpen = false;
  let loaded = ''; // which map is drawn, as a query
  let digits = null; // the test digits: {indices, labels, images}
  const place = latest(async () => {
    const { digit } = page;
    const wanted = controls.wanted();
    if (!digit || loaded !== queryOf(wanted)) {
      field.showDrawing(null);
      setText(landing, digit ? '' : 'Draw a digit: it lands on the map.');
      return;
    }
    try {
      const { point, nearest } = await postJson('api/map', { ...wanted, image: digit.image });
      if (loaded !== queryOf(wanted)) return;
      const read = page.answer?.models.find(({ name }) => name === wanted.model);
      const isInside = field.showDrawing({ point, nearest, text: read?.digits[page.selected]?.digit ?? '' });
      setText(landing, landingText(wanted.method, nearest.map((number) => digits.labels[number]), isInside));
    } catch (error) {
      page.say(error.message);
    }
  });

  /** Ask for the map that is wanted until it is there, unless another one is wanted meanwhile. */
  async function load() {
    const wanted = controls.wanted();
    const query = queryOf(wanted);
    if (loaded === query) return;
    setText(note, METHODS[wanted.method].note);
    const isWanted = () => isOpen && queryOf(controls.wanted()) === query;
    field.root.classList.add('is-old');
    panel.setAttribute('aria-busy', 'true');
    try {
      digits ??= await readDigits();
      while (isWanted()) {
        const answer = await getJson(`api/map?${query}`);
        if (!isWanted()) return;
        working.hidden = Boolean(answer.points);
        if (answer.points) {
          loaded = query;
          show(answer, wanted);
          return;
        }
        progress.value = answer.share;
        setText(phase, answer.phase);
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    } catch (error) {
      working.hidden = true;
      panel.setAttribute('aria-busy', 'false');
      page.say(error.message);
    }
  }

  function show({ points, predictions, explained }, { method }) {
    const wrong = [...points.keys()].filter((number) => predictions[number] !== digits.labels[number]);
    field.show(points, predictions, digits);
    field.root.classList.remove('is-old');
    panel.setAttribute('aria-busy', 'false');
    const share = method === 'pca' ? ` The two directions hold ${Math.round(100 * (explained[0] + explained[1]))}% of the variance.` : '';
    const listing = wrong.length > MOST_MISREAD ? `; the first ${MOST_MISREAD} are below` : '';
    setText(facts, `${plural(points.length, 'test digit')}, ${wrong.length} misread (ringed)${listing}.${share}`);
    misread.replaceChildren(
      ...wrong.slice(0, MOST_MISREAD).map((number) => {
        const canvas = digitCanvas({ 'aria-hidden': 'true' });
        drawDigit(canvas, digits.images[number]);
        const text = `${digits.labels[number]} read as ${predictions[number]}`;
        const select = () => field.point(number);
        return element('button', { type: 'button', 'aria-label': `Test digit ${digits.indices[number]}: ${text}`, onclick: select, onfocus: select, onblur: () => field.point(-1) }, canvas, element('span', { text }));
      }),
    );
    place();
  }

  page.addEventListener('answer', () => isOpen && place());
  page.addEventListener('select', () => isOpen && place());
  return {
    show() {
      isOpen = true;
      place();
      load();
    },
    hide() {
      isOpen = false;
    },
  };
}

const queryOf = (wanted) => new URLSearchParams(wanted).toString();

async function readDigits() {
  const { indices, labels, images } = await getJson('api/map/digits');
  const bytes = fromBase64(images);
  return {
    indices,
    labels,
    images: labels.map((_, number) => bytes.subarray(number * PIXELS, (number + 1) * PIXELS)),
  };
}

function landingText(method, nearest, isInside) {
  const where = method === 'pca'
    ? 'Your drawing is projected like the others'
    : 't-SNE has no place for a new digit: yours stands at the mean of its nearest test digits';
  const edge = isInside ? '' : ' It lies beyond the map, and is shown at its edge.';
  return `${where}. The nearest in this layer are ${listed(nearest.map(String))}.${edge}`;
}

/** Return {root, wanted()} of the choices of model, layer and method; `onChange` is told of them. */
function createControls(models, onChange) {
  const modelSelect = element('select', { id: 'map-model' }, ...models.map(({ name, title }) => element('option', { value: name, text: title })));
  const layerSelect = element('select', { id: 'map-layer' });
  let method = 'pca';
  const buttons = Object.entries(METHODS).map(([name, { title }]) => {
    const choose = () => {
      method = name;
      buttons.forEach((each) => each.setAttribute('aria-pressed', String(each.textContent === title)));
      onChange();
    };
    return element('button', { type: 'button', 'aria-pressed': String(name === method), text: title, onclick: choose });
  });
  const showLayers = () => {
    const { layers } = models.find(({ name }) => name === modelSelect.value);
    const options = layers.map(({ layer, name, shape }) =>
      element('option', { value: layer, text: `${layer ? `${layer}. ` : ''}${name} (${shape.join('x')})` }),
    );
    layerSelect.replaceChildren(...options);
    layerSelect.selectedIndex = Math.max(0, layers.length - 2); // the last hidden layer
  };
  modelSelect.addEventListener('change', () => {
    showLayers();
    onChange();
  });
  layerSelect.addEventListener('change', onChange);
  showLayers();
  return {
    root: element(
      'div',
      { class: 'choices' },
      element('label', { for: 'map-model' }, element('span', { text: 'Model' }), modelSelect),
      element('label', { for: 'map-layer' }, element('span', { text: 'Layer' }), layerSelect),
      element('div', { class: 'segments', role: 'group', 'aria-label': 'Method' }, ...buttons),
    ),
    wanted: () => ({ model: modelSelect.value, layer: layerSelect.value, method }),
  };
}

/**
 * Return {root, show, showDrawing, point} of the field with the points.
 *
 * `point(number)` shows a test digit, none for -1. `showDrawing` returns whether it lies inside.
 */
function createField() {
  const picture = svg('svg', { 'aria-hidden': 'true' });
  const canvas = digitCanvas();
  const words = element('p');
  const tip = element('div', { class: 'tip digit-tip', 'aria-hidden': 'true', hidden: true }, canvas, words);
  const told = element('span', { class: 'hidden', role: 'status' });
  const root = element('div', {
    class: 'plot map-plot',
    tabindex: 0,
    role: 'application',
    'aria-label': 'Map of test digits. Arrow keys go from digit to digit.',
  }, tip, told);
  root.prepend(picture);
  const layers = { links: svg('g', { class: 'links' }), points: svg('g'), pointed: svg('g', { class: 'pointed' }), drawing: svg('g', { class: 'drawing' }) };
  picture.append(...Object.values(layers));
  let map = null; // {points, predictions, digits}
  let drawing = null;
  let places = []; // in pixels
  let toPlace = null;
  let current = -1;

  function redraw() {
    const width = root.clientWidth;
    if (!width || !map) return;
    const height = Math.round(Math.min(Math.max(width * 0.72, 320), 640));
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) picture.setAttribute(name, value);
    toPlace = scaleOf(map.points, width, height);
    places = map.points.map(toPlace);
    picture.classList.toggle('is-small', width < SMALL);
    layers.points.replaceChildren(...places.map(([x, y], number) => {
      const label = map.digits.labels[number];
      const digit = svg('text', { class: `digit digit-${label}`, x: x.toFixed(1), y: y.toFixed(1), text: label });
      if (map.predictions[number] === label) return digit;
      return svg('g', { class: 'is-wrong' }, svg('circle', { cx: x.toFixed(1), cy: y.toFixed(1), r: 9 }), digit);
    }));
    point(-1);
    showDrawing(drawing);
  }

  function showDrawing(shown) {
    drawing = shown;
    layers.drawing.replaceChildren();
    layers.links.replaceChildren();
    if (!shown || !toPlace) return true;
    const wanted = toPlace(shown.point);
    const [width, height] = [picture.width.baseVal.value, picture.height.baseVal.value];
    const x = Math.max(MARGIN, Math.min(wanted[0], width - MARGIN));
    const y = Math.max(MARGIN, Math.min(wanted[1], height - MARGIN));
    layers.drawing.append(svg('circle', { r: 13 }), svg('text', { text: shown.text }));
    layers.drawing.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
    layers.links.append(...shown.nearest.map((number) => svg('path', { d: `M${x} ${y}L${places[number][0]} ${places[number][1]}` })));
    return Math.abs(wanted[0] - x) + Math.abs(wanted[1] - y) < 1;
  }

  function point(number) {
    current = number;
    layers.pointed.replaceChildren();
    tip.hidden = number < 0;
    if (number < 0) return;
    const [x, y] = places[number];
    const label = map.digits.labels[number];
    const read = map.predictions[number];
    layers.pointed.append(svg('circle', { cx: x, cy: y, r: 11 }));
    drawDigit(canvas, map.digits.images[number]);
    const text = `Test digit ${map.digits.indices[number]}: a ${label}, read as ${read}`;
    setText(words, text);
    setText(told, text);
    const [right, bottom] = [root.clientWidth - tip.offsetWidth, root.clientHeight - tip.offsetHeight];
    const isSmall = root.clientWidth < SMALL; // then at the top or the bottom, away from the point
    const left = isSmall ? right / 2 : x > root.clientWidth / 2 ? x - tip.offsetWidth - 18 : x + 18;
    const top = isSmall ? (y > root.clientHeight / 2 ? 0 : bottom) : y - tip.offsetHeight / 2;
    tip.style.left = `${Math.max(0, Math.min(left, right))}px`;
    tip.style.top = `${Math.max(0, Math.min(top, bottom))}px`;
  }

  function hover(event) {
    const box = picture.getBoundingClientRect();
    const distances = places.map(([x, y]) => Math.hypot(event.clientX - box.left - x, event.clientY - box.top - y));
    const best = distances.reduce((top, distance, number) => (distance < distances[top] ? number : top), 0);
    const nearest = distances[best] < REACH ? best : -1;
    if (nearest !== current) point(nearest);
  }

  root.addEventListener('pointermove', hover);
  root.addEventListener('pointerdown', hover);
  root.addEventListener('pointerleave', () => point(-1));
  root.addEventListener('blur', () => point(-1));
  root.addEventListener('keydown', (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === 'Escape') point(-1);
    if (!step || !places.length) return;
    event.preventDefault();
    point(current < 0 ? 0 : nextIn(places, current, step));
  });
  new ResizeObserver(redraw).observe(root);
  return {
    root,
    show(points, predictions, digits) {
      drawing = null;
      map = { points, predictions, digits };
      redraw();
    },
    showDrawing,
    point,
  };
}

/** Return the function from a point to its pixels: one scale for both axes, as the distances are. */
function scaleOf(points, width, height) {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const scale = Math.min((width - 2 * MARGIN) / (right - left || 1), (height - 2 * MARGIN) / (high - low || 1));
  return ([x, y]) => [
    width / 2 + (x - (left + right) / 2) * scale,
    height / 2 - (y - (low + high) / 2) * scale,
  ];
}

/** Return the nearest point in a direction, or the point itself if there is none. */
function nextIn(places, from, [right, down]) {
  let best = from;
  let least = Infinity;
  places.forEach(([x, y], number) => {
    const along = (x - places[from][0]) * right + (y - places[from][1]) * down;
    const across = Math.abs((x - places[from][0]) * down) + Math.abs((y - places[from][1]) * right);
    const cost = along + 2 * across;
    if (along > 0.5 && cost < least) [best, least] = [number, cost];
  });
  return best;
}
