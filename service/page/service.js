// Requests to the service. Errors carry a message for the user.

// Retries while a server restarts, and the pause between them in milliseconds.
const TRIES = 60;
const PAUSE = 1000;
const UNREACHABLE = "The server cannot be reached, or the connection was lost.";
// Name under which this tab keeps the key until it is closed.
const KEY = "key";

let key = stored();

/** The key that this tab has kept. If the browser keeps nothing, a key lasts until the page is reloaded. */
function stored() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

/** Sends this key with every request from now on. */
export function useKey(text) {
  key = text;
  try {
    sessionStorage.setItem(KEY, text);
  } catch {
    // The user has to enter it again after a reload.
  }
}

export const hasKey = () => Boolean(key);

/**
 * Returns the response, or throws an Error with a message for the user. An aborted request throws its own error.
 *
 * If the server requires a key, the document receives the event "keyrequired".
 */
async function request(address, options) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(address, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Error(UNREACHABLE);
  }
  if (response.status === 401) {
    document.dispatchEvent(new Event("keyrequired"));
    throw failure(key ? "The server does not accept this key." : "The server requires an API key.", 401);
  }
  if (!response.ok) throw failure(await reasonIn(response), response.status);
  return response;
}

const failure = (message, status) => Object.assign(new Error(message), { status });

const post = (address, body, signal) => request(address, { method: "POST", body, signal });

/** The message in an error response. */
async function reasonIn(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

/** The address that denoises with these parameters. Undefined parameters are left out. */
export function address(parameters, route = "denoise") {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined);
  return given.length ? `${route}?${new URLSearchParams(given)}` : route;
}

/** Denoises a file. Returns the result, a blob, and the response's headers. */
export async function denoise(file, parameters, signal) {
  const response = await post(address(parameters), file, signal);
  return { blob: await response.blob(), headers: response.headers };
}

/**
 * A part of an image, rendered by the service: a blob, and what the service says about the page.
 *
 * file: nothing if the parameters name a view.
 */
export async function preview(file, parameters, signal) {
  const response = await post(address(parameters, "preview"), file, signal);
  return { blob: await response.blob(), about: JSON.parse(response.headers.get("X-Denoise-View")) };
}

/** Whether the service runs jobs. */
export async function takesJobs() {
  return (await (await request("health", {})).json()).jobs;
}

/** Submits a file as a job. Returns the job. With a key, a proxy may send it again, and it is accepted once. */
export async function submitJob(file, parameters, signal) {
  const headers = { "Idempotency-Key": newKey() };
  return (await request(address(parameters, "jobs"), { method: "POST", body: file, signal, headers })).json();
}

// Not crypto.randomUUID, which exists only over HTTPS and on localhost.
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** A job of this ID: its state and progress. */
export async function findJob(id) {
  return (await request(`jobs/${id}`, {})).json();
}

/** The result of a job that is done. Returns the same as denoise. */
export async function jobResult(id, signal) {
  const response = await request(`jobs/${id}/result`, { signal });
  return { blob: await response.blob(), headers: response.headers };
}

/** Cancels and deletes a job. */
export const deleteJob = (id) => request(`jobs/${id}`, { method: "DELETE" });

/** Waits until a job has ended, also while the server restarts. Returns the job. onChange(job): it has got farther. */
export async function followJob(id, onChange, signal) {
  for (let left = TRIES; left; left -= 1) {
    try {
      for await (const job of eventsIn(await request(`jobs/${id}/events`, { signal }))) {
        left = TRIES;
        onChange(job);
        if (job.ended) return job;
      }
    } catch (error) {
      if (signal.aborted || error.status < 500) throw error;
    }
    await new Promise((resume) => setTimeout(resume, PAUSE));
  }
  throw new Error(UNREACHABLE);
}

/** The data of server-sent events. */
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

/** The models that a request can name. */
export async function models() {
  return (await request("models", {})).json();
}

/** Estimates the noise in an image. Returns the service's answer. file: nothing if the parameters name a view. */
export async function estimate(file, parameters, signal) {
  return (await post(address(parameters, "estimate"), file, signal)).json();
}
