// The models: the list to choose from, what each is for and what it costs, and why one was chosen for an image.

import { find } from "./controls.js";
import * as service from "./service.js";

// From how much more or less work on, compared with the usual model, a model counts as slower or faster.
const FASTER = 0.75;
const SLOWER = 1.5;
// The kind of a name that chooses among models.
const CHOICE = "choice";

const WHY = {
  camera: "neighbouring pixels share the noise, as in photos from cameras",
  white: "the noise differs from pixel to pixel, as in scans and renders",
  grey: "the image has no colour, and its noise differs from pixel to pixel",
  own: "its noise is like that of the images that these weights were adapted to",
};

let known = [];

/** Fills the list with the service's models that are for photographs. */
export async function listModels() {
  known = await service.models();
  const offered = known.filter((model) => model.for_photos || model.default);
  find("model").replaceChildren(
    ...offered.map((model) => {
      const option = new Option(model.name, model.name, model.default, model.default);
      option.dataset.kind = model.kind;
      return option;
    })
  );
  find("model-list").replaceChildren(...offered.flatMap(entryOf));
  find("model-choice").hidden = offered.length < 2;
}

function entryOf(model) {
  const [name, about] = [document.createElement("dt"), document.createElement("dd")];
  name.textContent = model.default ? `${model.name} (default)` : model.name;
  about.textContent = aboutOf(model);
  return [name, about];
}

/** Shows what the selected model is for. */
export function describeModel() {
  const model = known.find(({ name }) => name === find("model").value);
  find("model-about").textContent = model ? aboutOf(model) : "";
}

/** "For white noise: scans, renders, microscopes. Usual speed." */
const aboutOf = (model) => `${model.use ?? "No description: these weights are your own."} ${costOf(model)}`;

function costOf(model) {
  const usual = Math.min(...parametersOf(known.find((each) => each.default) ?? model));
  const [least, most] = [Math.min, Math.max].map((of) => of(...parametersOf(model)) / usual);
  if (most > SLOWER) return least > SLOWER ? `Slow: takes ${times(most)} as long.` : `Takes up to ${times(most)} as long.`;
  return most < FASTER ? "Fast." : "Usual speed.";
}

const times = (share) => `${Math.round(share)} times`;

/** The work of a network grows with its number of parameters. A choice has several networks. */
function parametersOf(model) {
  if (model.kind !== CHOICE) return [model.parameters];
  return known.filter(({ name }) => name in model.digests && name !== model.name).map(({ parameters }) => parameters);
}

/** Why a model was chosen for an image, in words; "" if this is not known. found: the estimate of its noise. */
export function reasonFor(name, found) {
  if (!found.sigma) return "the noise cannot be measured";
  const fromNoise = found.correlated ? "camera" : found.chroma ? "white" : "grey";
  const noise = known.find((model) => model.name === name)?.noise ?? fromNoise;
  if (found.correlated && noise !== "camera" && noise !== "own") return "what looks like noise is probably fine texture";
  // The whole file can decide otherwise than the sample that was measured.
  return noise === "camera" && !found.correlated ? "" : WHY[noise] ?? "";
}
