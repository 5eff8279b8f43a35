// The view "Look inside": what every layer of one model makes of the drawing.

import { asBase64, fromBase64, latest, postJson } from './api.js';
import { byId, element, percent, plural, setText } from './dom.js';
import { createFigure, drawSigned, signed } from './inside-paint.js';
import { createSoftmax } from './inside-softmax.js';
import { createInspector } from './inside-unit.js';
import { digitCanvas } from './seen.js';

const BLANK = new Uint8Array(784);
const AGAIN_MS = 30;

export function mount(panel, page) {
  const view = {
    page,
    model: page.models[0].name,
    digit: null, // the one that pixels speak for; null is the answer
    edits: [], // [{layer, unit, off, bias}], sent with each request
    seen: null, // the newest answer of POST /api/inside
    isShown: false,
    /** Return the fields that all requests have. */
    async asked(more = {}) {
      const image = await asBase64(new Blob([page.pixels ?? BLANK]));
      return { model: view.model, image, edits: view.edits, ...more };
    },
    /** Ask, unless hidden; null if the answer came too late to be shown or there was none. */
    async ask(path, fields, isStale = () => false) {
      if (!view.isShown) return null;
      const { model } = view;
      try {
        const answer = await postJson(path, await view.asked(fields));
        return view.isShown && model === view.model && !isStale() ? answer : null;
      } catch (error) {
        page.say(error.message);
        return null;
      }
    },
  };
  const layers = createLayers(view);
  const pixels = createPixels(view);
  const near = createNeighbours(view);
  const softmax = createSoftmax();
  const edits = createEdits(view);
  const inspector = createInspector(view);

  view.refresh = latest(async () => {
    const { digit, edits } = view;
    const before = page.pixels;
    const isStale = () => digit !== view.digit || edits !== view.edits;
    const answer = await view.ask('api/inside', { digit }, isStale);
    if (!answer) return;
    view.seen = answer;
    layers.update(answer);
    pixels.update(answer, before ?? BLANK);
    softmax.update(answer);
    inspector.update();
    panel.dataset.model = view.model;
  });
  view.inspect = inspector.inspect;
  /** Replace the edit of a unit, or take it away where `change` leaves the unit as it was. */
  view.edit = (layer, unit, change) => {
    const others = view.edits.filter((each) => each.layer !== layer || each.unit !== unit);
    const isEdit = change && (change.off || change.bias != null);
    view.edits = isEdit ? [...others, { layer, unit, ...change }] : others;
    edited();
  };
  view.reset = () => {
    view.edits = [];
    edited();
  };
  function edited() {
    layers.mark();
    edits.update();
    view.refresh();
  }

  const choice = element(
    'select',
    {
      onchange: (event) => {
        view.model = event.target.value;
        view.edits = [];
        inspector.clear();
        edited();
        near.update();
      },
    },
    ...page.models.map(({ name, title }) => element('option', { value: name, text: title })),
  );
  panel.append(
    element('h2', { class: 'hidden', text: 'Look inside' }),
    element(
      'div',
      { class: 'card inside-head' },
      element('label', { class: 'choice' }, element('span', { text: 'Model' }), choice),
      edits.root,
    ),
    element(
      'div',
      { class: 'inside' },
      element('div', { class: 'inside-main' }, element('div', { class: 'pair' }, pixels.root, near.root), layers.root, softmax.root),
      inspector.root,
    ),
  );
  const drawn = () => {
    view.refresh();
    near.update();
  };
  page.addEventListener('answer', drawn);
  page.addEventListener('select', drawn);
  return {
    show() {
      view.isShown = true;
      drawn();
      edits.update();
    },
    hide() {
      view.isShown = false;
    },
  };
}

/** The layers, a row each: maps or cells, one button per unit. */
function createLayers(view) {
  const root = element('div', { class: 'layers' });
  let rows = [];

  function build(layers) {
    rows = layers.map((layer, number) => createRow(view, layer, number));
    root.replaceChildren(...rows.map((row) => row.root));
  }
  function update({ layers }) {
    const key = view.model;
    if (root.dataset.model !== key) build(layers);
    root.dataset.model = key;
    layers.forEach((layer, number) => rows[number].update(layer));
    mark();
  }
  function mark() {
    const of = new Map(view.edits.map((each) => [`${each.layer},${each.unit}`, each]));
    rows.forEach(({ buttons }, layer) => {
      buttons.forEach((button, unit) => {
        const edit = of.get(`${layer},${unit}`);
        button.classList.toggle('is-edited', Boolean(edit));
        button.classList.toggle('unit-off', Boolean(edit?.off));
      });
    });
  }
  return { root, update, mark };
}

function createRow(view, layer, number) {
  const [count, height, width] = layer.shape;
  const isMaps = layer.shape.length === 3;
  const shown = fromBase64(layer.values).length / (isMaps ? height * width : 1);
  const what = isMaps ? `${plural(count, 'map')} of ${height}x${width}` : plural(count, 'unit');
  const cut = shown < count ? `, the first ${shown} shown` : '';
  const buttons = Array.from({ length: shown }, (_, unit) => {
    const face = isMaps ? element('canvas', { width, height, 'aria-hidden': 'true' }) : null;
    const name = `${layer.title}, ${isMaps ? 'map' : 'unit'} ${unit}`;
    return element(
      'button',
      {
        type: 'button',
        class: isMaps ? 'feature-map' : 'unit-cell',
        title: name,
        'aria-label': name,
        tabindex: unit ? -1 : 0, // one stop for a layer; arrows move in it
        onclick: (event) => view.inspect(number, unit, { isPinned: true, place: placeOf(event, height, width) }),
        onfocus: () => view.inspect(number, unit),
        onblur: () => view.inspect(null),
        onpointerenter: (event) => event.pointerType !== 'touch' && view.inspect(number, unit),
        onpointerleave: () => view.inspect(null),
      },
      face,
    );
  });
  const isScores = !isMaps && count === 10 && number === view.seen.layers.length - 1;
  if (isScores) buttons.forEach((button, digit) => button.append(String(digit)));
  const grid = element(
    'div',
    { class: isMaps ? 'feature-maps' : `unit-cells${isScores ? ' scores' : ''}`, role: 'group', 'aria-label': `${layer.title}: ${what}` },
    ...buttons,
  );
  grid.addEventListener('keydown', (event) => moveFocus(event, buttons));
  const inner = layer.inside ? ', within a residual' : '';
  const root = element(
    'section',
    { class: `card layer${layer.inside ? ' is-inner' : ''}` },
    element('header', {}, element('h3', { text: layer.title }), element('p', { class: 'note', text: `${what}${cut}${inner}` })),
    grid,
  );

  function update({ values }) {
    const bytes = signed(values);
    const size = isMaps ? height * width : 1;
    buttons.forEach((button, unit) => {
      if (isMaps) {
        drawSigned(button.firstChild, bytes.subarray(unit * size, (unit + 1) * size));
      } else {
        button.style.setProperty('--level', (Math.abs(bytes[unit]) / 127).toFixed(3));
        button.classList.toggle('is-negative', bytes[unit] < 0);
      }
    });
  }
  return { root, buttons, update };
}

/** Return the [row, column] of a map that was clicked; null for a key, or a unit that is no map. */
function placeOf(event, height, width) {
  if (!event.detail || width === undefined) return null;
  const box = event.currentTarget.getBoundingClientRect();
  const at = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
  return [at((event.clientY - box.top) / box.height, height), at((event.clientX - box.left) / box.width, width)];
}

function moveFocus(event, buttons) {
  const at = buttons.indexOf(event.target);
  const columns = buttons.filter((each) => each.offsetTop === buttons[0].offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  const next = buttons[at + step];
  if (!next) return;
  event.preventDefault();
  buttons[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** Which pixels speak for a digit and which against it. */
function createPixels(view) {
  const canvas = digitCanvas({ class: 'pixels large', role: 'img' });
  const title = element('h3', {});
  const chips = ['answer', ...Array(10).keys()].map((name) =>
    element('button', {
      type: 'button',
      text: name,
      'aria-label': name === 'answer' ? 'Speak for the answer' : `Speak for ${name}`,
      onclick: () => {
        view.digit = name === 'answer' ? null : name;
        mark();
        view.refresh();
      },
    }),
  );
  const mark = () => {
    chips.forEach((chip, at) => chip.setAttribute('aria-pressed', String(at === (view.digit === null ? 0 : view.digit + 1))));
  };
  mark();
  const root = element(
    'section',
    { class: 'card speak', 'aria-label': 'Which pixels speak for and against' },
    element('header', {}, title),
    element('div', { class: 'speak-body' }, canvas, element('div', { class: 'digit-chips', role: 'group', 'aria-label': 'Digit' }, ...chips)),
    element(
      'p',
      { class: 'note' },
      element('span', { class: 'ink-key is-for' }),
      'ink that speaks for it, ',
      element('span', { class: 'ink-key is-against' }),
      'against it: gradient times ink.',
    ),
  );

  function update({ digit, pixels }, image) {
    const isBlank = !image.some((value) => value > 0);
    setText(title, isBlank ? 'Draw a digit' : `Pixels for and against ${digit}`);
    drawSigned(canvas, signed(pixels.values), image);
    canvas.setAttribute('aria-label', isBlank ? 'No digit yet' : `Pixels that speak for and against ${digit}`);
  }
  return { root, update };
}

/** The ten training digits that are nearest in the last hidden layer. */
function createNeighbours(view) {
  const note = element('p', { class: 'note' });
  const figures = Array.from({ length: 10 }, () => createFigure());
  const strip = element('div', { class: 'samples' }, ...figures.map(({ root }) => root));
  const root = element(
    'section',
    { class: 'card near', 'aria-label': 'Nearest training digits' },
    element('header', {}, element('h3', { text: 'Nearest training digits' })),
    strip,
    note,
  );
  const update = latest(async () => {
    strip.hidden = !view.page.pixels;
    if (!view.page.pixels) setText(note, 'Those that the last hidden layer sees most like yours.');
    while (view.isShown && view.page.pixels) {
      const answer = await view.ask('api/inside/neighbours', { edits: [] });
      if (!answer) return;
      const { done, of, neighbours } = answer;
      if (neighbours.length) {
        neighbours.forEach((each, at) => figures[at].update(each, `distance ${each.distance.toFixed(2)}`));
        setText(note, `In the last hidden layer, of the first ${of.toLocaleString('en')} digits.`);
        return;
      }
      setText(note, `Looking at training digits, once for this model: ${percent(done / of)}.`);
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  });
  return { root, update };
}

/** What is edited, what that does to accuracy, and the way back. */
function createEdits(view) {
  const text = element('p', { role: 'status', id: 'edits' });
  const reset = element('button', { type: 'button', text: 'Reset', id: 'reset-edits', onclick: () => view.reset() });
  const root = element('div', { class: 'edits' }, text, reset);
  const untouched = new Map(); // models to how many test digits they read
  const score = ({ right, of }) => `${((100 * right) / of).toFixed(1)}%`;
  const measure = latest(async () => {
    const { model, edits } = view;
    const isStale = () => edits !== view.edits;
    if (!untouched.has(model)) {
      const found = await view.ask('api/inside/accuracy', { edits: [] });
      if (!found) return;
      untouched.set(model, found);
    }
    const before = untouched.get(model);
    const after = edits.length ? await view.ask('api/inside/accuracy', {}, isStale) : before;
    if (!after || isStale()) return;
    const on = `of the first ${before.of.toLocaleString('en')} test digits`;
    setText(text, edits.length
      ? `${plural(edits.length, 'unit')} changed: ${score(before)} → ${score(after)} ${on} right.`
      : `Reads ${score(before)} ${on} right.`);
    root.dataset.right = after.right;
  });
  function update() {
    reset.disabled = view.edits.length === 0;
    byId('panel-inside')?.classList.toggle('is-changed', view.edits.length > 0);
    measure();
  }
  return { root, update };
}
