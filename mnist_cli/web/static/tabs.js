// Tabs as the ARIA practices describe them: arrows move, the address names the open view.

import { element } from './dom.js';

/** Fill `list` with a tab and `panels` with a panel per view, and open the one in the address. */
export async function createTabs(list, panels, views, page) {
  const tabs = views.map((view) => {
    const tab = element('button', {
      type: 'button',
      role: 'tab',
      id: `tab-${view.id}`,
      'aria-controls': `panel-${view.id}`,
      text: view.title,
      onclick: () => open(view.id),
    });
    const panel = element('section', {
      role: 'tabpanel',
      id: `panel-${view.id}`,
      'aria-labelledby': tab.id,
      hidden: true,
    });
    return { view, tab, panel, mounted: null };
  });
  list.append(...tabs.map(({ tab }) => tab));
  panels.append(...tabs.map(({ panel }) => panel));
  let current = null;

  async function open(id) {
    const next = tabs.find(({ view }) => view.id === id) ?? tabs[0];
    if (next === current) return;
    (await current?.mounted)?.hide?.();
    current = next;
    for (const each of tabs) {
      each.tab.setAttribute('aria-selected', String(each === next));
      each.tab.tabIndex = each === next ? 0 : -1;
      each.panel.hidden = each !== next;
    }
    document.body.classList.toggle('without-board', Boolean(next.view.hidesBoard));
    history.replaceState(null, '', `#${next.view.id}`);
    next.mounted ??= next.view.load().then(({ mount }) => mount(next.panel, page));
    (await next.mounted)?.show?.();
  }

  list.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const ends = { Home: 0, End: tabs.length - 1 }[event.key];
    if (step === undefined && ends === undefined) return;
    event.preventDefault();
    const next = tabs[ends ?? (tabs.indexOf(current) + step + tabs.length) % tabs.length];
    open(next.view.id);
    next.tab.focus();
  });
  addEventListener('hashchange', () => open(location.hash.slice(1)));
  await open(location.hash.slice(1));
}
