// Talking to the server. Addresses are relative, because they may hold a token.

/** Ask the server and return its JSON. Throws an Error with the server's own sentence. */
async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('The server does not answer. Start mnist draw again, then reload this page.');
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server answered ${response.status}.`);
  return answer;
}

export const getJson = (path) => ask(path);

export const postJson = (path, value) =>
  ask(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(value),
  });

/** Send a picture, a Blob, as the whole body. */
export const postPicture = (path, picture) =>
  ask(path, {
    method: 'POST',
    headers: { 'Content-Type': picture.type || 'application/octet-stream' },
    body: picture,
  });

/** Return a Blob as base64. */
export function asBase64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(',') + 1));
    reader.onerror = () => reject(new Error('The picture cannot be read.'));
    reader.readAsDataURL(blob);
  });
}

/** Return the bytes of base64. */
export const fromBase64 = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));

/**
 * Return a function that runs `work`, one at a time. Asked again meanwhile, it runs once more
 * afterwards: the newest wish is always met, however fast they come.
 */
export function latest(work) {
  let isBusy = false;
  let isAskedAgain = false;
  return async function run() {
    if (isBusy) {
      isAskedAgain = true;
      return;
    }
    isBusy = true;
    do {
      isAskedAgain = false;
      await work();
    } while (isAskedAgain);
    isBusy = false;
  };
}
