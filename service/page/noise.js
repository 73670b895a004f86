// The noise of the image on view: a sentence, a plot, and whether a drawing is denoised.

import { find } from "./controls.js";
import { caption, plot } from "./plot.js";

/** Clears what is shown about the noise. */
export function hideNoise() {
  find("noise").textContent = "";
  find("levels").hidden = find("force-choice").hidden = true;
}

/** Shows an estimate. model: the one that is chosen by it, if any. */
export function showNoise(found, model, image) {
  const unchanged = isUnchanged(image);
  const then = unchanged ? "It is saved unchanged." : model && `Model: ${model}`;
  find("noise").textContent = then ? `${found.words} ${then}` : found.words;
  find("levels").hidden = !found.levels.length;
  if (found.levels.length) {
    find("plot").replaceChildren(plot(found));
    find("plot-caption").textContent = caption(found);
  }
  find("force-choice").hidden = !image.drawn;
  find("force").checked = image.force;
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
