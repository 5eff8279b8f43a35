// The digits as the network sees them, 28x28, and their boxes on the paper.

import { fromBase64 } from './api.js';
import { byId, element } from './dom.js';

const SIDE = 28;

/** Return a <canvas> of 28x28 pixels, to be drawn with `drawDigit`. */
export const digitCanvas = (attributes = {}) =>
  element('canvas', { width: SIDE, height: SIDE, class: 'pixels', ...attributes });

/** Draw 784 grey values, 0-255, light on dark as MNIST has them. */
export function drawDigit(canvas, pixels) {
  const context = canvas.getContext('2d');
  const image = context.createImageData(SIDE, SIDE);
  pixels.forEach((value, index) => image.data.set([value, value, value, 255], 4 * index));
  context.putImageData(image, 0, 0);
}

/** Keep the strip of digits and the boxes as the page's answer has them. */
export function showSeen(page) {
  const strip = byId('seen');
  const buttons = [];
  const buttonOf = (number) => {
    buttons[number] ??= element(
      'button',
      { type: 'button', class: 'seen-digit', onclick: () => page.select(number) },
      digitCanvas({ 'aria-hidden': 'true' }),
    );
    return buttons[number];
  };
  const select = () => {
    buttons.forEach((button, number) => {
      button.setAttribute('aria-pressed', String(number === page.selected));
    });
    drawBoxes(page);
  };
  const update = () => {
    const digits = page.answer?.digits ?? [];
    for (let number = 0; number < Math.max(1, digits.length); number += 1) {
      const button = buttonOf(number);
      const found = digits[number];
      drawDigit(button.firstChild, found ? fromBase64(found.image) : new Uint8Array(SIDE * SIDE));
      button.disabled = digits.length < 2;
      button.setAttribute('aria-label', found ? `Digit ${number + 1}` : 'No digit yet');
    }
    const wanted = buttons.slice(0, Math.max(1, digits.length));
    if (strip.children.length !== wanted.length) strip.replaceChildren(...wanted);
    select();
  };
  page.addEventListener('answer', update);
  page.addEventListener('select', select);
  update();
}

/** Frame the digits on the paper where there are several, or a picture. */
function drawBoxes({ answer, place, selected, drawing }) {
  const boxes = byId('boxes');
  boxes.setAttribute('viewBox', `0 0 ${drawing.canvas.width} ${drawing.canvas.height}`);
  const digits = place && (answer.digits.length > 1 || drawing.picture) ? answer.digits : [];
  boxes.replaceChildren(
    ...digits.map(({ box: [left, top, right, bottom] }, number) => {
      const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
      const { x, y, scale } = place;
      const frame = [x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale];
      ['x', 'y', 'width', 'height'].forEach((name, index) => rect.setAttribute(name, frame[index]));
      rect.classList.toggle('is-selected', number === selected);
      return rect;
    }),
  );
}
