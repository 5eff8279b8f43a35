// The softmax step by step: scores, divided by a temperature, to powers, to shares.

import { element, percent, setText } from './dom.js';

const number = (value) => (Math.abs(value) >= 10_000 ? value.toExponential(1) : value.toFixed(2));

/** Return {root, update(answer)} for the answer of POST /api/inside. */
export function createSoftmax() {
  let newest = null;
  let own = null; // a temperature that was set by hand
  const slider = element('input', {
    type: 'range', min: '0.2', max: '10', step: '0.05', value: '1', id: 'temperature', 'aria-label': 'Temperature',
    oninput: () => {
      own = Number(slider.value);
      show();
    },
  });
  const shown = element('output', { for: 'temperature' });
  const rows = Array.from({ length: 10 }, (_, digit) => {
    const cells = Array.from({ length: 4 }, () => element('td', {}));
    const bar = element('span', { class: 'share-bar', 'aria-hidden': 'true' });
    return { row: element('tr', {}, element('th', { scope: 'row', text: digit }), ...cells, element('td', {}, bar)), cells, bar };
  });
  const total = Array.from({ length: 4 }, () => element('td', {}));
  const head = ['Digit', 'Score s', 's / T', 'e^(s/T)', 'Share'];
  const root = element(
    'section',
    { class: 'card softmax' },
    element('header', {}, element('h3', { text: 'From scores to probabilities' })),
    element('label', { class: 'width' }, element('span', { text: 'Temperature T' }), slider, shown),
    element(
      'table',
      {},
      element('thead', {}, element('tr', {}, ...head.map((text) => element('th', { scope: 'col', text })), element('td', {}))),
      element('tbody', {}, ...rows.map(({ row }) => row)),
      element('tfoot', {}, element('tr', {}, element('th', { scope: 'row', text: 'Sum' }), ...total, element('td', {}))),
    ),
    element('p', {
      class: 'note',
      text: 'Each power over the sum of all is a probability. The higher T, the more alike they are; T is at first what was measured for this model.',
    }),
  );

  function show() {
    if (!newest) return;
    const temperature = own ?? newest.temperature;
    if (own === null) slider.value = String(temperature);
    setText(shown, temperature.toFixed(2));
    const scaled = newest.logits.map((score) => score / temperature);
    const highest = Math.max(...scaled);
    const powers = scaled.map(Math.exp);
    const sum = powers.reduce((a, b) => a + b, 0);
    const exact = scaled.map((each) => Math.exp(each - highest)); // as powers may be infinite
    const exactSum = exact.reduce((a, b) => a + b, 0);
    rows.forEach(({ row, cells, bar }, digit) => {
      const share = exact[digit] / exactSum;
      [newest.logits[digit], scaled[digit], powers[digit]].forEach((value, at) => setText(cells[at], number(value)));
      setText(cells[3], percent(share));
      bar.style.setProperty('--share', share.toFixed(4));
      row.classList.toggle('is-best', scaled[digit] === highest);
    });
    setText(total[2], number(sum));
    setText(total[3], '100%');
  }
  return {
    root,
    update(answer) {
      newest = answer;
      show();
    },
  };
}
