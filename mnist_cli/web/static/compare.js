// The view "Compare": the records of the results folder as charts, tables and verdicts.

import { getJson } from './api.js';
import { createChart, scrolling, swatch } from './chart.js';
import { element } from './dom.js';

const FRAMEWORKS = ['jax', 'numpy', 'tensorflow', 'torch'];
const SPARE_COLORS = 4;

export function mount(panel, page) {
  const list = element('div', { class: 'records' });
  panel.append(element('h2', { class: 'hidden', text: 'Records of comparisons and trainings' }), list);
  let shown = '';
  return {
    /** Ask again whenever the tab is opened: a training may have ended meanwhile. */
    async show() {
      panel.setAttribute('aria-busy', 'true');
      try {
        const answer = await getJson('api/records');
        if (JSON.stringify(answer) !== shown) list.replaceChildren(...cardsOf(answer));
        shown = JSON.stringify(answer);
      } catch (error) {
        page.say(error.message);
      }
      panel.setAttribute('aria-busy', 'false');
    },
  };
}

function cardsOf({ results_dir: folder, records, problems }) {
  const broken = problems.map((text) => element('p', { class: 'problem', text }));
  if (!records.length) {
    const text = `No records in ${folder}. Make them with "mnist compare", "mnist sweep-batch" or "mnist train".`;
    broken.push(element('p', { class: 'card', text }));
  }
  return [...broken, ...records.map((record, number) => cardOf(record, number))];
}

/** Return the card of one record. Only the first is open: there may be many. */
function cardOf(record, number) {
  const series = coloredSeries(record.series);
  const charts = record.charts.map((chart) => createChart(chart, series));
  return element(
    'details',
    { class: 'card record', 'data-record': record.name, open: number === 0 },
    element('summary', {}, element('h3', { text: record.title })),
    element('p', { class: 'note', text: record.caption }),
    ...record.warnings.map((text) => element('p', { class: 'problem', text })),
    ...record.failures.map((text) => element('p', { class: 'problem', text })),
    legendOf(series, charts),
    element('div', { class: 'charts' }, ...charts.map(({ root }) => root)),
    summaryTable(record),
    record.lines.length
      ? element('ul', { class: 'verdicts' }, ...record.lines.map((text) => element('li', { text })))
      : null,
  );
}

/** Give each series the name of its framework's colour, which it has in every record. */
function coloredSeries(series) {
  const others = [...new Set(series.map(({ framework }) => framework))].filter((name) => !FRAMEWORKS.includes(name)).sort();
  return series.map((each) => ({
    ...each,
    color: FRAMEWORKS.includes(each.framework)
      ? each.framework
      : `spare-${others.indexOf(each.framework) % SPARE_COLORS}`,
  }));
}

/** Return a button for each series that takes it out of the charts, or brings it back. */
function legendOf(series, charts) {
  const left = new Set();
  const buttons = series.map((each, number) =>
    element(
      'button',
      {
        type: 'button',
        'aria-pressed': 'true',
        onclick: (event) => {
          if (!left.delete(number)) left.add(number);
          event.currentTarget.setAttribute('aria-pressed', String(!left.has(number)));
          charts.forEach((chart) => chart.show((wanted) => !left.has(wanted)));
        },
      },
      swatch(each),
      each.name,
    ),
  );
  return element('div', { class: 'legend', role: 'group', 'aria-label': 'Shown in the charts' }, ...buttons);
}

function summaryTable({ title, table: { header, rows } }) {
  const head = element('tr', {}, ...header.map((text) => element('th', { scope: 'col', text })));
  const body = rows.map((cells) => element('tr', {}, ...cells.map((text) => element('td', { text }))));
  return scrolling(`${title}, summary`, element('table', {}, element('thead', {}, head), element('tbody', {}, ...body)));
}
