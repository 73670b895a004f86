// The noise of the image on view: a sentence, a plot, and whether a drawing is denoised.

import { find } from "./controls.js";
import { reasonFor } from "./models.js";
import { caption, plot } from "./plot.js";

/** Clears what is shown about the noise. */
export function hideNoise() {
  find("noise").textContent = "";
  find("levels").hidden = find("force-choice").hidden = true;
}

/** Shows an estimate. choice: the selected choice of models, if one is selected. */
export function showNoise(found, choice, image) {
  const then = isUnchanged(image) ? "It is saved unchanged." : chosenWords(found, choice);
  find("noise").textContent = then ? `${found.words} ${then}` : found.words;
  find("levels").hidden = !found.levels.length;
  if (found.levels.length) {
    find("plot").replaceChildren(plot(found));
    find("plot-caption").textContent = caption(found);
  }
  find("force-choice").hidden = !image.drawn;
  find("force").checked = image.force;
}

/** "auto takes photo, because ..." */
function chosenWords(found, choice) {
  const model = found.models[choice];
  if (!model) return "";
  const reason = reasonFor(model, found);
  return reason ? `Model ${choice} takes ${model}, because ${reason}.` : `Model ${choice} takes ${model}.`;
}

/** Whether the service returns the image as it is. */
export const isUnchanged = (image) => image.drawn && !image.force;

/** Notes whether the service takes an image for a drawing, which it denoises only by force. */
export function noteDrawn(image, drawn) {
  image.drawn = drawn;
  image.force &&= drawn;
}

/** Whether an estimate is of a drawing: its noise is exactly 0. A photograph's never is. */
export const isDrawn = ({ sigma }) => Boolean(sigma) && !sigma.some(Boolean);
