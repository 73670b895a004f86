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

/**
 * What the service sees in a sample of a picture: the model it takes for it, and its noise in words.
 *
 * chooser: the name under which it chooses a model; without it, no model is known.
 */
export async function examine(sample, chooser, signal) {
  const noise = await estimate(sample, signal);
  if (!chooser) return { noise: inWords(noise ?? {}) };
  // Without strength nothing is denoised, only looked at.
  const { headers } = await denoise(sample, { model: chooser, strength: 0 }, signal);
  const model = decodeURIComponent(headers.get("X-Denoise-Model"));
  return { model, noise: inWords(noise ?? fromHeader(headers.get("X-Denoise-Noise") ?? "")) };
}

/** The noise in a sample; nothing where the service does not say. */
async function estimate(sample, signal) {
  try {
    return await (await post("estimate", sample, signal)).json();
  } catch {
    return null;
  }
}

/** The same from a header: "white; sigma 24.9 25.1 24.8; ...; JPEG blocks". */
function fromHeader(header) {
  const sigma = header.match(/sigma ([\d. ]+)/)?.[1].trim().split(" ").map(Number);
  return { sigma, correlated: header.startsWith("camera"), jpeg_blocks: header.includes("JPEG") };
}

function inWords({ sigma, correlated, jpeg_blocks: blocks }) {
  if (!sigma?.length) return "";
  const words = [`Noise of about ${(Math.hypot(...sigma) / Math.sqrt(sigma.length)).toFixed(1)} of 255`];
  if (typeof correlated === "boolean") words.push(correlated ? "in soft grains" : "in fine grains");
  if (blocks) words.push("JPEG’s blocks");
  return words.join(", ");
}
