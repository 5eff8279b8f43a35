// Ten probabilities as bars. They are moved, never made anew, so that nothing flickers.

import { element, percent } from './dom.js';

/** Return {root, update(probabilities)} for a chart with a column per digit. */
export function createBars(title) {
  const columns = Array.from({ length: 10 }, (_, digit) => {
    const bar = element('div', { class: 'bar' });
    const track = element('div', { class: 'track' }, bar);
    const column = element('div', { class: 'column' }, track, element('span', { text: digit }));
    return { column, bar };
  });
  const root = element('div', { class: 'bars', role: 'img' }, ...columns.map(({ column }) => column));

  /** Show probabilities (10,), 0-1, or none for null. */
  function update(probabilities) {
    const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
    columns.forEach(({ column, bar }, digit) => {
      bar.style.setProperty('--share', probabilities ? probabilities[digit].toFixed(4) : '0');
      column.classList.toggle('is-best', digit === best);
      column.title = probabilities ? `${digit}: ${percent(probabilities[digit])}` : '';
    });
    const order = [...(probabilities ?? []).keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    const top = order.slice(0, 3).map((digit) => `${digit} ${percent(probabilities[digit])}`);
    root.setAttribute('aria-label', `${title}: ${top.length ? top.join(', ') : 'no digit yet'}`);
  }

  update(null);
  return { root, update };
}
