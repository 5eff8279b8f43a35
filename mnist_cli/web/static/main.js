// The start: what the server knows, the board, the tabs.

import { getJson } from './api.js';
import { createBoard } from './board.js';
import { byId, setText } from './dom.js';
import { Page } from './page.js';
import { showSeen } from './seen.js';
import { createTabs } from './tabs.js';
import { createThemeSwitch } from './theme.js';
import { VIEWS } from './views.js';

/** Show a sentence above the page, none for ''. */
function say(text) {
  setText(byId('notice'), text);
  byId('notice').hidden = !text;
}

async function start() {
  createThemeSwitch(byId('theme'));
  const drawing = createBoard(say);
  const { models, problems, keep_dir: folder, kept } = await getJson('api/models');
  setText(byId('kept'), kept ? `${kept} kept in ${folder}.` : `Goes into the folder ${folder}.`);
  const page = new Page(drawing, models, say);
  showSeen(page);
  await createTabs(byId('tabs'), byId('panels'), VIEWS, page);
  if (problems.length) say(problems.join(' '));
  document.body.dataset.ready = 'true';
  if (!drawing.isEmpty) drawing.dispatchEvent(new Event('change')); // drawn before all was there
}

start().catch((error) => say(error.message));
