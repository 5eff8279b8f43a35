// Light, dark, or as the system has it; remembered by the browser.

import { setText } from './dom.js';

const THEMES = ['auto', 'light', 'dark'];
const KEY = 'mnist-theme';

/** Let a button switch between the themes. */
export function createThemeSwitch(button) {
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    setText(button, `Theme: ${theme}`);
  };
  const read = () => {
    try {
      return THEMES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : 'auto';
    } catch {
      return 'auto'; // the browser keeps nothing for this page
    }
  };
  apply(read());
  button.addEventListener('click', () => {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    apply(theme);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // remembered for this page alone
    }
  });
}
