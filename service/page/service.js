// What the page asks of the service, and what it hears, refusals in words.

// A server that is started again is asked again, so often and after so many milliseconds.
const TRIES = 60;
const REST = 1000;
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
    throw refusal(key ? "The server does not know this key, or not any more." : "The server wants a key.", 401);
  }
  if (!response.ok) throw refusal(await reasonIn(response), response.status);
  return response;
}

const refusal = (words, status) => Object.assign(new Error(words), { status });

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
export function address(parameters, route = "denoise") {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined);
  return given.length ? `${route}?${new URLSearchParams(given)}` : route;
}

/** The answer's picture, a blob, and its headers. */
export async function denoise(file, parameters, signal) {
  const response = await post(address(parameters), file, signal);
  return { picture: await response.blob(), headers: response.headers };
}

/** Whether the service takes pictures as jobs. */
export async function takesJobs() {
  return (await (await ask("health", {})).json()).jobs;
}

/** The same for what takes long, as a job, which outlasts a break in the connection. told: hears the share done. */
export async function denoiseAsJob(file, parameters, told, signal) {
  const { id } = await (await post(address(parameters, "jobs"), file, signal)).json();
  try {
    await untilEnded(`jobs/${id}`, told, signal);
    const response = await ask(`jobs/${id}/result`, { signal });
    return { picture: await response.blob(), headers: response.headers };
  } finally {
    // It is here, or no longer wanted.
    ask(`jobs/${id}`, { method: "DELETE" }).catch(() => {});
  }
}

async function untilEnded(job, told, signal) {
  for (let left = TRIES; left; left -= 1) {
    try {
      for await (const { progress, ended } of eventsIn(await ask(`${job}/events`, { signal }))) {
        left = TRIES;
        told(progress);
        if (ended) return;
      }
    } catch (error) {
      if (signal.aborted || error.status < 500) throw error;
    }
    await new Promise((rested) => setTimeout(rested, REST));
  }
  throw new Error(UNREACHABLE);
}

/** What server-sent events carry. */
async function* eventsIn(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.match(/^data: (.*)$/m);
      if (data) yield JSON.parse(data[1]);
    }
  }
}

/** What may be asked for as a model: each with its name, kind, and whether it is the default. */
export async function models() {
  return (await ask("models", {})).json();
}

/** What the service sees in a sample of a picture: its noise in words, and the models that its choices take for it. */
export async function examine(sample, signal) {
  const { words, models } = await (await post("estimate", sample, signal)).json();
  return { words, models };
}
