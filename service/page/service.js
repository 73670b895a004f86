// What the page asks of the service, and what it hears, refusals in words.

const UNREACHABLE = "The server cannot be reached, or broke off.";
// Under this name the key is kept in this tab, and nowhere once it is closed.
const KEY = "key";

let key = kept();

/** Where a browser keeps nothing, the key lasts as long as the page. */
function kept() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** Have all that is asked from now on carry this key. */
export function useKey(text) {
  key = text;
  try {
    sessionStorage.setItem(KEY, text);
  } catch {
    // Then it is asked for again when the page is loaded again.
  }
}

export const hasKey = () => Boolean(key);

/**
 * The answer, or an Error in words. What was aborted is thrown as it is.
 *
 * Where a key is wanted, the document hears of it by the event "keywanted".
 */
async function ask(address, options) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(address, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error(UNREACHABLE);
  }
  if (response.status === 401) {
    document.dispatchEvent(new Event("keywanted"));
    throw new Error(key ? "The server does not know this key, or not any more." : "The server wants a key.");
  }
  if (!response.ok) throw new Error(await reasonIn(response));
  return response;
}

/** Post a body. */
const post = (address, body, signal) => ask(address, { method: "POST", body, signal });

/** The words in an answer that is no picture. */
async function reasonIn(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `The server answered with ${response.status}.`;
  }
}

/** The address that denoises with these parameters; undefined ones are left to the service. */
export function address(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined);
  return given.length ? `denoise?${new URLSearchParams(given)}` : "denoise";
}

/** The answer's picture, a blob, and its headers. */
export async function denoise(file, parameters, signal) {
  const response = await post(address(parameters), file, signal);
  return { picture: await response.blob(), headers: response.headers };
}

/** What may be asked for as a model: each with its name, kind, and whether it is the default. */
export async function models() {
  return (await ask("models", {})).json();
}

/** What the service sees in a sample of a picture: its noise in words, and the model it takes for it, if it does. */
export async function examine(sample, signal) {
  const { words, model } = await (await post("estimate", sample, signal)).json();
  return { words, model };
}
