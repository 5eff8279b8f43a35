// The paper: strokes and a picture, drawn at once, undone one by one.

import { fromBase64 } from './api.js';

const PAPER = '#ffffff';
const INK = '#14181f';
// Pixels of the paper's height, and of the picture that is sent: half as many are read as well.
const HEIGHT = 560;
const SENT_SCALE = 0.5;

/** A drawing on a <canvas>. Dispatches "change" after whatever changes it. */
export class Drawing extends EventTarget {
  /** `isWide` makes room for several digits. */
  constructor(canvas, isWide) {
    super();
    this.canvas = canvas;
    canvas.width = isWide ? HEIGHT * 1.5 : HEIGHT;
    canvas.height = HEIGHT;
    this.context = canvas.getContext('2d', { willReadFrequently: true });
    this.items = []; // strokes, after a picture or not
    this.past = []; // what `items` was before each change
    this.width = 30;
    this.isErasing = false;
    this.stroke = null; // the one that is being drawn
    this.#redraw();
    canvas.addEventListener('pointerdown', (event) => this.#begin(event));
    canvas.addEventListener('pointermove', (event) => this.#extend(event));
    for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) {
      canvas.addEventListener(end, (event) => this.#end(event));
    }
  }

  get isEmpty() {
    return !this.items.some((item) => item.bitmap !== undefined || !item.isErasing);
  }

  get canUndo() {
    return this.past.length > 0;
  }

  /** The picture alone, as it was opened, if nothing was drawn over it. */
  get picture() {
    return this.items.length === 1 && this.items[0].file ? this.items[0] : null;
  }

  undo() {
    if (!this.canUndo || this.stroke) return;
    this.items = this.past.pop();
    this.#redraw();
    this.#changed();
  }

  clear() {
    if (!this.items.length || this.stroke) return;
    this.#remember([]);
    this.#redraw();
    this.#changed();
  }

  /** Show a picture in place of the drawing; one that the browser cannot show is sent all the same. */
  async open(file) {
    const bitmap = await createImageBitmap(file).catch(() => null);
    this.#remember([{ file, bitmap }]);
    this.#redraw();
    this.#changed();
  }

  /** Return what is to be read: `blob`, and how its pixels lie on the paper. */
  toSend() {
    const { picture } = this;
    if (picture) {
      const place = picture.bitmap ? this.#place(picture.bitmap) : null;
      return { blob: picture.file, rotate: 'auto', place };
    }
    const small = document.createElement('canvas');
    small.width = this.canvas.width * SENT_SCALE;
    small.height = this.canvas.height * SENT_SCALE;
    const context = small.getContext('2d', { willReadFrequently: true });
    context.imageSmoothingQuality = 'high';
    context.drawImage(this.canvas, 0, 0, small.width, small.height);
    // Not toBlob(): it waits, for up to a second, until the browser has nothing else to do.
    const [, code] = small.toDataURL('image/png').split(',');
    const blob = new Blob([fromBase64(code)], { type: 'image/png' });
    return { blob, rotate: '0', place: { x: 0, y: 0, scale: 1 / SENT_SCALE } };
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }

  #remember(items) {
    this.past.push(this.items);
    this.items = items;
  }

  #begin(event) {
    if (this.stroke || !event.isPrimary || event.button > 0) return;
    event.preventDefault();
    document.activeElement?.blur(); // so that keys are not an input's
    this.canvas.setPointerCapture(event.pointerId);
    const isErasing = this.isErasing || event.buttons === 32; // the other end of a pen
    this.stroke = { pointer: event.pointerId, isErasing, points: [this.#point(event)] };
    this.#remember([...this.items, this.stroke]);
    this.#draw(this.stroke);
    this.#changed();
  }

  #extend(event) {
    if (this.stroke?.pointer !== event.pointerId) return;
    const events = event.getCoalescedEvents?.() ?? [];
    const from = this.stroke.points.length - 1;
    this.stroke.points.push(...(events.length ? events : [event]).map((each) => this.#point(each)));
    this.#draw(this.stroke, from);
    this.#changed();
  }

  #end(event) {
    if (this.stroke?.pointer === event.pointerId) this.stroke = null;
  }

  /** Return where a pointer is on the paper, and how wide it draws: a pen by its pressure. */
  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const pressure = event.pointerType === 'pen' && event.pressure ? 0.4 + 1.2 * event.pressure : 1;
    return {
      x: ((event.clientX - box.left) * this.canvas.width) / box.width,
      y: ((event.clientY - box.top) * this.canvas.height) / box.height,
      width: this.width * pressure * (this.isErasing ? 1.6 : 1),
    };
  }

  #redraw() {
    this.context.fillStyle = PAPER;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    for (const item of this.items) {
      if (item.bitmap) {
        const { x, y, scale } = this.#place(item.bitmap);
        const { width, height } = item.bitmap;
        this.context.drawImage(item.bitmap, x, y, width * scale, height * scale);
      } else if (item.points) this.#draw(item);
    }
  }

  /** Return where on the paper a picture is: as large as fits, in the middle. */
  #place({ width, height }) {
    const scale = Math.min(this.canvas.width / width, this.canvas.height / height);
    const [x, y] = [(this.canvas.width - width * scale) / 2, (this.canvas.height - height * scale) / 2];
    return { x, y, scale };
  }

  /** Draw a stroke from its point number `from` on. */
  #draw({ points, isErasing }, from = 0) {
    const { context } = this;
    context.strokeStyle = isErasing ? PAPER : INK;
    context.lineCap = 'round';
    for (let number = from; number < points.length; number += 1) {
      const start = points[Math.max(0, number - 1)];
      const { x, y, width } = points[number];
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(start.x, start.y);
      context.lineTo(x + 0.01, y); // a line of no length draws no dot everywhere
      context.stroke();
    }
  }
}
