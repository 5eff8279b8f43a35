// One unit: what it responds to, its sum number by number, its switch and its bias.

import { latest } from './api.js';
import { element, percent, setText } from './dom.js';
import { createFigure, drawSigned, signed } from './inside-paint.js';

const AGAIN_MS = 30;
const number = (value) => value.toFixed(Math.abs(value) < 0.1 ? 3 : 2);

/** Return {root, inspect(layer, unit, {isPinned}), update(), clear()}. */
export function createInspector(view) {
  let pinned = null; // {layer, unit, place}: the unit that was clicked, where
  let pointed = null; // the unit under the pointer
  const title = element('h3', { text: 'One unit' });
  const note = element('p', { class: 'note', text: 'Point at a map or a unit to see what it responds to; click it for its sum, number by number.' });
  const responds = createResponds(view);
  const sums = createSums(view, () => pinned);
  const root = element('section', { class: 'card inside-unit', id: 'unit', tabindex: 0, 'aria-label': 'One unit' }, element('header', {}, title), note, responds.root, sums.root);

  const current = () => pointed ?? pinned;
  function show() {
    const { layer, unit } = current() ?? {};
    const found = view.seen?.layers[layer];
    if (found) setText(title, `${found.title}: ${found.shape.length === 3 ? 'map' : 'unit'} ${unit}`);
    else setText(title, 'One unit');
    note.hidden = Boolean(found);
    responds.show(current());
    const isPinned = Boolean(pinned) && (!pointed || (pointed.layer === pinned.layer && pointed.unit === pinned.unit));
    sums.root.hidden = !isPinned || !view.seen?.layers[pinned.layer]?.units;
  }
  function inspect(layer, unit, { isPinned = false, place = null } = {}) {
    if (layer !== null) pointed = { layer, unit };
    else if (pinned) pointed = null; // else it stays: the page must not jump below the pointer
    if (isPinned) {
      pinned = { layer, unit, place };
      sums.update();
    }
    show();
  }
  return {
    root,
    inspect,
    update() {
      if (pinned) sums.update();
      show();
    },
    clear() {
      pinned = null;
      pointed = null;
      show();
    },
  };
}

/** What a unit responds to: its weights where they are an image, and test digits. */
function createResponds(view) {
  const known = new Map(); // units to what they respond to
  const canvas = element('canvas', { class: 'pixels weights', role: 'img', 'aria-label': 'Weights: light adds, orange takes away' });
  const weights = element('figure', { class: 'weights' }, canvas, element('figcaption', { text: 'Its weights: light adds, orange takes away.' }));
  const figures = Array.from({ length: 10 }, () => createFigure());
  const strip = element('div', { class: 'samples' }, ...figures.map(({ root }) => root));
  const note = element('p', { class: 'note' });
  const root = element('div', { class: 'responds', hidden: true }, weights, strip, note);
  let wanted = null;

  function draw({ weights: image, strongest, done, of }) {
    root.setAttribute('aria-busy', 'false');
    weights.hidden = !image;
    if (image) {
      [canvas.height, canvas.width] = image.shape;
      drawSigned(canvas, signed(image.values));
    }
    strip.hidden = !strongest.length;
    strongest.forEach((each, at) => figures[at].update(each, `response ${number(each.value)}`));
    setText(note, strongest.length
      ? `It responds most to these of the first ${of.toLocaleString('en')} test digits.`
      : `Looking at test digits, once for this model: ${percent(done / of)}.`);
  }
  const ask = latest(async () => {
    while (wanted && view.isShown) {
      const { key, layer, unit } = wanted;
      if (known.has(key)) return;
      const answer = await view.ask('api/inside/responds', { layer, unit });
      if (!answer) return;
      if (answer.strongest.length) known.set(key, answer);
      if (wanted?.key === key) draw(answer);
      if (!answer.strongest.length) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  });
  function show(unit) {
    root.hidden = !unit;
    const key = unit && `${view.model} ${unit.layer} ${unit.unit}`;
    const isNew = wanted?.key !== key;
    wanted = unit && { key, ...unit };
    if (!unit) return;
    if (!known.has(key)) {
      if (isNew) root.setAttribute('aria-busy', 'true'); // what is shown is still that of another
      ask();
    } else if (isNew) draw(known.get(key));
  }
  return { root, show };
}

/** The sum of the pinned unit, with its switch and its bias. */
function createSums(view, pinned) {
  const body = element('tbody', {});
  const foot = element('tfoot', {});
  const where = element('p', { class: 'note' });
  const head = ['Input', 'Value', 'Weight', 'Product'];
  const off = element('button', {
    type: 'button', text: 'Switch off', id: 'switch-off', 'aria-pressed': 'false',
    onclick: () => change({ off: !edit().off }),
  });
  const bias = element('input', { type: 'range', min: '-5', max: '5', step: '0.05', 'aria-label': 'Bias', id: 'bias', oninput: () => change({ bias: Number(bias.value) }) });
  const shown = element('output', { for: 'bias' });
  const root = element(
    'div',
    { class: 'sums', hidden: true },
    element('h4', { text: 'Number by number' }),
    element('div', { class: 'change' }, off, element('label', { class: 'width' }, element('span', { text: 'Bias' }), bias, shown)),
    where,
    element('table', {}, element('thead', {}, element('tr', {}, ...head.map((text) => element('th', { scope: 'col', text })))), body, foot),
  );
  const edit = () => view.edits.find(({ layer, unit }) => layer === pinned().layer && unit === pinned().unit) ?? {};
  const change = (part) => {
    const { off: isOff = false, bias: own = null } = { ...edit(), ...part };
    view.edit(pinned().layer, pinned().unit, { off: isOff, bias: own });
  };
  const update = latest(async () => {
    const unit = pinned();
    if (!unit || !view.seen?.layers[unit.layer]?.units) return;
    const { layer, unit: index, place } = unit;
    const { edits } = view; // an older answer would move the slider back under the hand
    const isStale = () => unit !== pinned() || edits !== view.edits;
    const answer = await view.ask('api/inside/unit', { layer, unit: index, place }, isStale);
    if (answer) show(answer, view.seen.layers[layer]);
  });

  function show({ place, terms, rest, bias: own, steps, value }, layer) {
    const isMap = place.length > 0;
    const chosen = pinned().place ? 'At the place that you clicked' : 'Where the map is brightest';
    setText(where, isMap ? `${chosen}: row ${place[0]}, column ${place[1]}.` : '');
    where.hidden = !isMap;
    const inputs = layer.inputs.length > 1;
    const name = (at) => (inputs ? `${layer.inputs[0] > 1 ? `map ${at[0]}, ` : ''}row ${at[1]}, column ${at[2]}` : `unit ${at[0]}`);
    fill(body, [
      ...terms.map((term) => [name(term.place), number(term.x), number(term.weight), number(term.x * term.weight)]),
      ...(rest.count ? [[`${rest.count.toLocaleString('en')} more`, '', '', number(rest.sum)]] : []),
      ['Bias', '', '', number(own)],
    ]);
    const isOff = Boolean(edit().off);
    fill(foot, [
      ...steps.map((step, at) => [at ? step.layer : 'Sum', '', '', number(step.value)]),
      ...(isOff ? [['switched off', '', '', number(value)]] : []),
    ]);
    bias.value = String(own);
    setText(shown, number(own));
    off.setAttribute('aria-pressed', String(isOff));
    setText(off, isOff ? 'Switched off' : 'Switch off');
  }
  return { root, update };
}

/** Fill a part of a table with rows, as few changes as there can be. */
function fill(part, rows) {
  while (part.rows.length > rows.length) part.lastChild.remove();
  rows.forEach((texts, at) => {
    if (!part.rows[at]) part.append(element('tr', {}, element('th', { scope: 'row' }), ...texts.slice(1).map(() => element('td', {}))));
    texts.forEach((text, column) => setText(part.rows[at].cells[column], text));
  });
}
