// The view "Answers": what each model reads, how sure it is, and where models differ.

import { createBars } from './bars.js';
import { byId, element, listed, percent, plural, setText } from './dom.js';

const STATUS_PAUSE_MS = 700;
const VERDICTS = { sure: 'is-sure', 'not sure': 'is-unsure', 'no digit': 'is-none' };

export function mount(panel, page) {
  const text = element('p', { class: 'read', 'aria-hidden': 'true' });
  const sentence = element('p', { class: 'sentence' });
  const note = element('p', { class: 'note' });
  const summary = element('div', { class: 'summary card' }, text, element('div', {}, sentence, note));
  let cards = [];
  const grid = element('div', { class: 'cards' });
  const makeCards = () => {
    cards = page.models.map((model) => createCard(model, page));
    grid.replaceChildren(...cards.map(({ root }) => root));
  };
  panel.append(
    element('h2', { class: 'hidden', text: 'Answers of the models' }),
    summary,
    grid,
  );
  let pause;
  const update = () => {
    const told = summarize(page);
    setText(text, told.text);
    setText(sentence, told.sentence);
    setText(note, told.note);
    setText(byId('reading'), told.text && `read as ${told.text}`);
    summary.classList.toggle('is-split', Boolean(told.isSplit));
    cards.forEach(({ update: show }) => show(told.text));
    panel.setAttribute('aria-busy', String(page.isBusy));
    clearTimeout(pause); // read out once a stroke has come to rest
    pause = setTimeout(() => setText(byId('status'), page.answer ? told.sentence : ''), STATUS_PAUSE_MS);
  };
  page.addEventListener('models', () => {
    makeCards();
    update();
  });
  page.addEventListener('answer', update);
  page.addEventListener('select', update);
  page.addEventListener('busy', () => panel.setAttribute('aria-busy', 'true'));
  makeCards();
  update();
}

/** Return what all models together say: the text most of them read, and a sentence. */
function summarize(page) {
  const { answer, models } = page;
  if (!answer) return { text: '', sentence: 'Draw a digit.', note: 'Every model answers while you draw.' };
  const all = answer.models;
  if (!answer.digits.length) {
    return { text: '', sentence: 'No digit found.', note: 'There is too little ink, or none that stands out.' };
  }
  const titles = (names) => listed(names.map((name) => page.model(name)?.title ?? name));
  const votes = groupByText(all);
  const [[text, readers], ...others] = [...votes].sort((a, b) => b[1].length - a[1].length);
  const ms = all.reduce((sum, each) => sum + each.ms, answer.prepare_ms);
  const time = `Prepared in ${answer.prepare_ms.toFixed(1)} ms, read in ${(ms - answer.prepare_ms).toFixed(1)} ms.`;
  if (others.length) {
    const rest = others.map(([other, each]) => `${titles(each.map(({ name }) => name))} ${each.length > 1 ? 'read' : 'reads'} ${other}`);
    return {
      text,
      isSplit: true,
      sentence: `Models disagree: ${readers.length} of ${all.length} read ${text}.`,
      note: `${listed(rest)}. ${time}`,
    };
  }
  const who = models.length > 1 ? `All ${plural(models.length, 'model')} read` : `${models[0].title} reads`;
  const unsure = all.filter((each) => each.verdict !== 'sure');
  const doubt = unsure.length
    ? `, ${models.length === 1 ? 'but is not sure' : `${unsure.length} of them not sure`}`
    : '';
  return { text, sentence: `${who} ${text}${doubt}.`, note: time };
}

function groupByText(answers) {
  const groups = new Map();
  for (const each of answers) groups.set(each.text, [...(groups.get(each.text) ?? []), each]);
  return groups;
}

/** Return the card of one model: {root, update(common)}, `common` what most models read. */
function createCard(model, page) {
  const bars = createBars(model.title);
  const ms = element('span', { class: 'ms' });
  const digit = element('p', { class: 'answer' });
  const verdict = element('p', { class: 'verdict' });
  const share = element('p', { class: 'share' });
  const dataset = model.dataset === 'mnist' ? 'MNIST' : 'its data';
  const isTested = model.test_accuracy !== null; // the one that is trained live is not
  const accuracy = isTested ? `${percent(model.test_accuracy)} on ${dataset}` : 'trained on this page';
  const root = element(
    'article',
    { class: 'card model', 'data-model': model.name, 'aria-label': model.title },
    element('header', {}, element('h3', { text: model.title, title: model.name }), ms),
    element(
      'div',
      { class: 'model-body' },
      element('div', { class: 'model-answer' }, digit, share, verdict),
      bars.root,
    ),
    element('p', { class: 'note', text: `${plural(model.parameters, 'parameter')}, ${accuracy}` }),
  );

  function update(common) {
    const answer = page.answer?.models.find(({ name }) => name === model.name);
    const shown = answer?.digits[page.selected];
    bars.update(shown?.probabilities ?? null);
    setText(digit, answer?.text.replaceAll('\n', ' ') || '–');
    digit.classList.toggle('is-long', (answer?.text.length ?? 0) > 1);
    const isLine = page.answer?.digits.length > 1;
    setText(share, shown ? `${isLine ? `${shown.digit}: ` : ''}${percent(shown.confidence)}` : '');
    setText(verdict, answer && page.answer.digits.length ? answer.verdict : '');
    verdict.className = `verdict ${VERDICTS[verdict.textContent] ?? ''}`;
    setText(ms, answer && shown ? `${answer.ms.toFixed(1)} ms` : '');
    root.classList.toggle('differs', Boolean(shown) && answer.text !== common);
    root.dataset.answer = answer?.text ?? '';
  }

  return { root, update };
}
