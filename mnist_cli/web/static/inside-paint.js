// Values with a sign as colours: light where positive, orange where negative, blue for "speaks for".

import { fromBase64 } from './api.js';
import { element, setText } from './dom.js';
import { digitCanvas, drawDigit } from './seen.js';

const NEGATIVE = [255, 138, 60];
const POSITIVE = [255, 255, 255];
const FOR = [110, 155, 255];

/** Return base64 of signed bytes as an Int8Array: 127 stands for the scale. */
export const signed = (text) => new Int8Array(fromBase64(text).buffer);

/**
 * Draw signed values on a canvas of that many pixels, on black. Over an `image`, 0-255, positive
 * ones are blue and the image shines through in grey.
 */
export function drawSigned(canvas, values, image = null) {
  const context = canvas.getContext('2d');
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, at) => {
    const share = Math.abs(value) / 127;
    const color = value < 0 ? NEGATIVE : image ? FOR : POSITIVE;
    const ground = image ? image[at] * 0.3 : 0;
    for (let part = 0; part < 3; part += 1) {
      pixels.data[4 * at + part] = ground + (color[part] - ground) * share;
    }
    pixels.data[4 * at + 3] = 255;
  });
  context.putImageData(pixels, 0, 0);
}

/** Return {root, update({image, label}, words)} for a small digit with its label. */
export function createFigure() {
  const canvas = digitCanvas({ role: 'img', 'aria-label': 'none yet' });
  const caption = element('figcaption', {});
  const root = element('figure', {}, canvas, caption);
  return {
    root,
    update({ image, label }, words) {
      drawDigit(canvas, fromBase64(image));
      canvas.setAttribute('aria-label', `a ${label}, ${words}`);
      root.title = words;
      setText(caption, String(label));
    },
  };
}
