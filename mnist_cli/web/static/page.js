// What all views share: the drawing, the models, and the newest answer to the drawing.

import { fromBase64, getJson, latest, postPicture } from './api.js';

/**
 * Dispatches "answer" when `answer` has changed, "select" when `selected` has. `answer` is that of
 * POST /api/predict, null for an empty paper; `selected` is the number of the digit in it that the
 * views show. "models" is dispatched when `models` has changed. "busy" is dispatched when an answer begins to be awaited, while `isBusy`.
 */
export class Page extends EventTarget {
  #changes = 0; // of the drawing: an answer to an older one leaves the page busy

  constructor(drawing, models, say) {
    super();
    this.drawing = drawing;
    this.models = models;
    this.say = say;
    this.answer = null;
    this.place = null; // how the answer's boxes lie on the paper
    this.selected = 0;
    this.isBusy = false;
    this.askAgain = latest(() => this.#update());
    drawing.addEventListener('change', () => {
      this.#changes += 1;
      this.isBusy = true;
      this.dispatchEvent(new Event('busy'));
      this.askAgain();
    });
  }

  /** Take over which models there are, and what they now answer: one has learnt. */
  async refreshModels() {
    try {
      const { models } = await getJson('api/models');
      if (JSON.stringify(models) !== JSON.stringify(this.models)) {
        this.models = models;
        this.dispatchEvent(new Event('models'));
      }
      if (!this.drawing.isEmpty) await this.askAgain();
    } catch (error) {
      this.say(error.message);
    }
  }

  /** The digit that is selected: {image, box, line}, null if there is none. */
  get digit() {
    return this.answer?.digits[this.selected] ?? null;
  }

  /** The 784 pixels, 0-255, that the networks saw of the selected digit, or null. */
  get pixels() {
    return this.digit && fromBase64(this.digit.image);
  }

  /** Return a model by its name. */
  model(name) {
    return this.models.find((each) => each.name === name);
  }

  select(number) {
    this.selected = number;
    this.dispatchEvent(new Event('select'));
  }

  async #update() {
    const changes = this.#changes;
    let answer = null;
    let sent = null;
    if (!this.drawing.isEmpty) {
      try {
        sent = this.drawing.toSend();
        answer = await postPicture(`api/predict?rotate=${sent.rotate}`, sent.blob);
        this.say('');
      } catch (error) {
        this.say(error.message);
      }
    }
    if (this.drawing.isEmpty) answer = null; // cleared meanwhile
    this.answer = answer;
    this.place = answer && sent.place;
    this.selected = Math.min(this.selected, Math.max(0, (answer?.digits.length ?? 0) - 1));
    this.isBusy = changes !== this.#changes;
    this.dispatchEvent(new Event('answer'));
  }
}
