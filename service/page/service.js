// What the page asks of the service, and what it hears, refusals in words.

/** Post a body; the answer, or an Error in words. What was aborted is thrown as it is. */
async function post(address, body, signal) {
  let response;
  try {
    response = await fetch(address, { method: "POST", body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The server cannot be reached, or broke off.");
  }
  if (!response.ok) throw new Error(await reasonIn(response));
  return response;
}

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
  const response = await fetch("models");
  if (!response.ok) throw new Error(await reasonIn(response));
  return response.json();
}

/** What the service sees in a sample of a picture: its noise in words, and the model it takes for it, if it does. */
export async function examine(sample, signal) {
  const { words, model } = await (await post("estimate", sample, signal)).json();
  return { words, model };
}
