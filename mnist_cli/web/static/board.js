// The drawing board: the paper, its tools, pictures from elsewhere, and keeping a drawing.

import { asBase64, postJson } from './api.js';
import { Drawing } from './canvas.js';
import { byId, element, setText } from './dom.js';

const MAX_PICTURE_BYTES = 10_000_000;

/** Wire up the board and return its `Drawing`. `say(text)` tells of errors. */
export function createBoard(say) {
  const drawing = new Drawing(byId('canvas'), matchMedia('(min-width: 600px)').matches);
  wireTools(drawing);
  wirePictures(drawing, say);
  const keep = wireKeeping(drawing, say);
  wireKeys(drawing, keep);
  return drawing;
}

function wireTools(drawing) {
  const setErasing = (isErasing) => {
    drawing.isErasing = isErasing;
    byId('pen').setAttribute('aria-pressed', String(!isErasing));
    byId('eraser').setAttribute('aria-pressed', String(isErasing));
  };
  byId('pen').addEventListener('click', () => setErasing(false));
  byId('eraser').addEventListener('click', () => setErasing(true));
  byId('width').addEventListener('input', (event) => {
    drawing.width = Number(event.target.value);
  });
  drawing.width = Number(byId('width').value);
  byId('undo').addEventListener('click', () => drawing.undo());
  byId('clear').addEventListener('click', () => drawing.clear());
  drawing.addEventListener('change', () => {
    byId('undo').disabled = !drawing.canUndo;
    byId('clear').disabled = drawing.items.length === 0;
    const noPreview = drawing.picture && !drawing.picture.bitmap;
    byId('hint').hidden = drawing.items.length > 0 && !noPreview;
    setText(byId('hint'), noPreview ? `${drawing.picture.file.name} (no preview)` : HINT);
    byId('paper').classList.toggle('has-picture', drawing.items.some((item) => item.bitmap));
  });
}

const HINT = byId('hint').textContent;

function wirePictures(drawing, say) {
  const open = async (files) => {
    const [file] = files;
    if (!file) return;
    if (file.size > MAX_PICTURE_BYTES) say(`${file.name} is over 10 MB. Scale it down first.`);
    else await drawing.open(file);
  };
  byId('open').addEventListener('click', () => byId('file').click());
  byId('file').addEventListener('change', async (event) => {
    await open(event.target.files);
    event.target.value = ''; // so that the same file can be opened again
  });
  document.addEventListener('paste', (event) => open(event.clipboardData.files));
  // All over the page, because a browser would leave it for a picture that misses the board.
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    byId('paper').classList.add('is-target');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) byId('paper').classList.remove('is-target');
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    byId('paper').classList.remove('is-target');
    open(event.dataTransfer.files);
  });
}

/** Wire up the ten labels and return the function that keeps the drawing with one. */
function wireKeeping(drawing, say) {
  const keep = async (label) => {
    if (drawing.isEmpty) {
      setText(byId('kept'), 'Draw a digit first, then label it.');
      return;
    }
    try {
      const { blob } = drawing.toSend();
      const answer = await postJson('api/keep', { label, picture: await asBase64(blob) });
      setText(byId('kept'), `Kept as ${label} in ${answer.folder}, ${answer.kept} so far.`);
    } catch (error) {
      say(error.message);
    }
  };
  for (let label = 0; label < 10; label += 1) {
    const attributes = { type: 'button', text: label, 'aria-label': `Keep as ${label}` };
    byId('labels').append(element('button', { ...attributes, onclick: () => keep(label) }));
  }
  return keep;
}

function wireKeys(drawing, keep) {
  document.addEventListener('keydown', (event) => {
    const key = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && key === 'z') {
      event.preventDefault();
      drawing.undo();
    }
    const isTyping = event.target.matches('input:not([type=range]), textarea, select');
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isTyping) return;
    if (key === 'c') drawing.clear();
    else if (key === 'u') drawing.undo();
    else if (key === 'e') byId(drawing.isErasing ? 'pen' : 'eraser').click();
    else if (/^[0-9]$/.test(key)) keep(Number(key));
  });
}
