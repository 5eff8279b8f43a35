// Building elements, and the one place for words of numbers.

/** Return an element with attributes and children; `text`, `class` and `onclick` are understood. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'text') made.textContent = value;
    else if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, '');
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Return the element with an id, which the page has. */
export const byId = (id) => document.getElementById(id);

/** Set text only where it differs, so that nothing flickers and nothing is read out twice. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Return 0.987 as 99% and 0.9987 as 99.9%: a doubt is never rounded away. */
export function percent(share) {
  if (share > 0.995 && share < 1) return `${Math.min(99.9, Math.floor(share * 1000) / 10)}%`;
  return `${Math.round(share * 100)}%`;
}

export const plural = (count, noun) => `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;

/** Return "a", "a and b", "a, b and c". */
export function listed(names) {
  return names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}
