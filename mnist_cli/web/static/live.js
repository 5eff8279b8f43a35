// The view "Train live": a network learns while one watches, steers it and draws on it.

import { getJson, latest, postJson } from './api.js';
import { createBars } from './bars.js';
import { createCurves, createHistogram } from './curves.js';
import { element, percent, plural, setText } from './dom.js';

const STATES = {
  starting: 'Starting.',
  loading: 'Loading the digits and the framework.',
  running: 'Training.',
  paused: 'Paused. Draw on it, or go on.',
  finished: 'All epochs are done. Draw on it, or train one more.',
  ended: 'Ended. Its last model still answers.',
};
const TRAIN_IMAGES = 55_000; // 5,000 of MNIST's 60,000 validate
const RATES = { min: 0.0001, max: 10, step: 'any' };

export async function mount(panel, page) {
  const known = await getJson('api/live');
  const form = createForm(known);
  const controls = createControls();
  const answer = createAnswer(page);
  const seen = createSeen(answer);
  const error = element('p', { class: 'live-error', role: 'alert', hidden: true });
  panel.append(
    element('h2', { class: 'hidden', text: 'Train a network live' }),
    element('div', { class: 'card live-form' }, form.root, controls.root, error),
    seen.root,
  );
  const fail = (text) => {
    setText(error, text);
    error.hidden = !text;
  };
  let source = null;
  let training = null;

  async function ask(path, value) {
    try {
      fail('');
      return await postJson(path, value);
    } catch (problem) {
      fail(problem.message);
      return null;
    }
  }

  function show() {
    const isRunning = Boolean(training) && training.status !== 'ended';
    form.update(isRunning);
    controls.update(isRunning, training);
    seen.update(training);
  }

  const askModels = latest(() => page.refreshModels());
  const takers = {
    status(event) {
      training.status = event.status;
      if (event.status === 'ended') {
        source.close();
        if (event.error) fail(event.error);
      }
    },
    settings({ event: _, ...settings }) {
      training.settings = settings;
    },
    step: (event) => seen.addSteps(event),
    sample(event) {
      seen.addSample(event);
      askModels();
    },
  };

  function follow(newTraining) {
    training = newTraining;
    seen.clear();
    source?.close();
    source = new EventSource('api/live/events');
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      takers[event.event]?.(event);
      show();
    };
    source.onopen = () => seen.clear(); // all events come again
    source.onerror = () => {
      source.close();
      training.status = 'ended';
      fail('The server does not answer. Start mnist draw again, then reload this page.');
      show();
    };
    show();
  }

  form.root.addEventListener('submit', async (event) => {
    event.preventDefault();
    const started = await ask('api/live', form.read());
    if (started) follow(started);
  });
  controls.onchange = (settings) => ask('api/live/settings', settings);
  controls.onstop = () => ask('api/live/stop', {});
  if (known.training && known.training.status !== 'ended') follow(known.training);
  else show();
}

/** Return {root, read(), update(isRunning)} of what to train. */
function createForm({ networks, frameworks }) {
  const line = element('input', {
    type: 'text', id: 'live-arch', list: 'live-known', value: 'mlp', required: true, spellcheck: 'false',
    autocapitalize: 'off', autocomplete: 'off', 'aria-describedby': 'live-line',
  });
  const list = element('datalist', { id: 'live-known' });
  for (const [name, text] of Object.entries(networks)) list.append(element('option', { value: name, text }));
  const explained = element('p', { class: 'note live-line', id: 'live-line' });
  const explain = () => setText(explained, networks[line.value.trim()] ?? 'layers, such as conv 16, relu, pool, dense 64, relu');
  line.addEventListener('input', explain);
  explain();
  const framework = element('select', { id: 'live-framework' });
  for (const { name, title } of frameworks) {
    framework.append(element('option', { value: name, text: title, selected: name === 'numpy' })); // starts at once
  }
  const epochs = element('input', { type: 'number', id: 'live-epochs', min: 1, max: 10000, value: 2, required: true });
  const rate = element('input', { type: 'number', id: 'live-rate', ...RATES, value: 0.05, required: true });
  const button = element('button', { type: 'submit', class: 'primary', text: 'Train' });
  const inputs = element(
    'fieldset',
    {},
    labelled('Network', line, explained, 'is-wide'),
    list,
    labelled('Framework', framework),
    labelled('Epochs', epochs),
    labelled('Learning rate', rate),
    button,
  );
  const root = element('form', { 'aria-label': 'What to train', novalidate: true }, inputs);
  return {
    root,
    read: () => ({
      arch: line.value.trim(),
      framework: framework.value,
      epochs: epochs.valueAsNumber,
      learning_rate: rate.valueAsNumber,
    }),
    update(isRunning) {
      root.hidden = isRunning;
    },
  };
}

function labelled(text, input, note = null, extra = '') {
  return element('div', { class: `live-field ${extra}` }, element('label', { for: input.id, text }), input, note);
}

/** Return {root, update(isRunning, training), onchange, onstop} of what steers a training. */
function createControls() {
  const self = { onchange() {}, onstop() {} };
  let settings = null;
  const button = (text, onclick) => element('button', { type: 'button', text, onclick });
  const pause = button('Pause', () => self.onchange({ paused: !settings.paused }));
  const slow = button('Slow motion', () => self.onchange({ slow: !settings.slow }));
  const more = button('One more epoch', () => self.onchange({ epochs: settings.epochs + 1 }));
  const stop = button('Stop', () => self.onstop());
  const rate = element('input', { type: 'number', id: 'live-new-rate', ...RATES });
  rate.addEventListener('change', () => {
    if (rate.value) self.onchange({ learning_rate: rate.valueAsNumber });
  });
  const title = element('h3');
  const line = element('p', { class: 'note live-line' });
  self.root = element(
    'div',
    { class: 'live-controls', role: 'group', 'aria-label': 'The training' },
    element('div', {}, title, line),
    element(
      'div',
      { class: 'live-steer' },
      labelled('Learning rate', rate),
      element('div', { class: 'live-buttons' }, pause, slow, more, stop),
    ),
  );
  self.update = (isRunning, training) => {
    self.root.hidden = !isRunning;
    if (!isRunning) return;
    settings = training.settings;
    setText(title, training.title);
    setText(line, `${training.line}: ${plural(training.parameters, 'parameter')}`);
    setText(pause, settings.paused ? 'Go on' : 'Pause');
    slow.setAttribute('aria-pressed', String(settings.slow));
    if (document.activeElement !== rate) rate.value = settings.learning_rate;
  };
  return self;
}

/** Return the card of what the network that learns reads in the drawing. */
function createAnswer(page) {
  const bars = createBars('The network that learns');
  const read = element('strong');
  const update = () => {
    const live = page.answer?.models.find(({ name }) => name === 'live');
    const digit = live?.digits[page.selected];
    bars.update(digit?.probabilities ?? null);
    setText(read, digit ? `${digit.digit}, ${percent(digit.confidence)}` : 'draw a digit');
  };
  page.addEventListener('answer', update);
  page.addEventListener('select', update);
  update();
  return element(
    'figure',
    { class: 'card live-curves' },
    element('figcaption', {}, element('h3', { text: 'Your drawing' }), element('p', { class: 'live-legend' }, read)),
    bars.root,
  );
}

/** Return {root, clear(), addSteps(event), addSample(event), update(training)} of what is seen. */
function createSeen(answer) {
  const state = element('p', { class: 'live-state', role: 'status' });
  const figures = element('p', { class: 'note live-figures' });
  const progress = element('progress', { 'aria-label': 'Steps taken', max: 1, value: 0 });
  const loss = createCurves('Loss', [
    { name: 'training', class: 'is-first' },
    { name: '1,000 validation digits', class: 'is-second' },
  ], { format: (value) => value.toPrecision(3) });
  const accuracy = createCurves('Accuracy', [{ name: '1,000 validation digits', class: 'is-second' }], {
    format: percent, highest: 1,
  });
  const layers = element('div', { class: 'live-layers' });
  const layersCard = element(
    'div',
    { class: 'card' },
    element('h3', { text: 'Weights of each layer' }),
    element('p', { class: 'note', text: 'How often each value occurs, and the size of the gradients (root mean square).' }),
    layers,
  );
  const root = element(
    'div',
    { class: 'live-seen' },
    element('div', { class: 'card live-progress' }, state, progress, figures),
    element('div', { class: 'live-charts' }, loss.root, accuracy.root, answer),
    layersCard,
  );
  let histograms = new Map();
  let last = null;
  let sample = null;

  function clear() {
    [last, sample, histograms] = [null, null, new Map()];
    layers.replaceChildren();
    loss.clear();
    accuracy.clear();
  }

  function addSteps(event) {
    last = event;
    loss.add(0, event.step, event.loss);
  }

  function addSample(event) {
    sample = event;
    loss.add(1, event.step, event.validation_loss);
    accuracy.add(0, event.step, event.validation_accuracy);
    for (const layer of event.layers) {
      if (!histograms.has(layer.name)) {
        const made = createHistogram(layer.name);
        histograms.set(layer.name, made);
        layers.append(made.root);
      }
      histograms.get(layer.name).update(layer);
    }
  }

  function update(training) {
    root.hidden = !training;
    if (!training) return;
    setText(state, STATES[training.status]);
    const { epochs } = training.settings;
    const perEpoch = Math.floor(TRAIN_IMAGES / training.batch_size);
    const steps = epochs * perEpoch;
    const step = Math.max(last?.step ?? 0, sample?.step ?? 0);
    progress.value = Math.min(1, step / steps);
    loss.extend(steps);
    accuracy.extend(steps);
    const words = [`Epoch ${Math.min(epochs, Math.floor(step / perEpoch) + 1)} of ${epochs}, ${plural(step, 'step')}`];
    if (sample) words.push(`${percent(sample.validation_accuracy)} right`);
    if (training.status === 'running' && last && step < steps) {
      words.push(`${duration((steps - step) / last.steps_per_second)} left`);
    }
    setText(figures, `${words.join(' · ')}`);
  }

  return { root, clear, addSteps, addSample, update };
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
