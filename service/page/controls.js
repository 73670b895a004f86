// Controls of the page: what the user has selected, and the request parameters for it.

import { address, hasKey } from "./service.js";

export const find = (id) => document.getElementById(id);
const SHARES = ["strength", "luma", "chroma"];
const HAS_QUALITY = ["jpeg", "webp", "avif", "same"];

/** Shows a message below the image. */
export function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", wrong);
}

/** Whether the view shows the removed noise. */
export const showsRemoved = () => document.querySelector('input[name="look"]:checked').value === "removed";

/** The selected model, or undefined for the service's default. */
export function model() {
  const option = find("model").selectedOptions[0];
  return option?.defaultSelected ? undefined : option?.value;
}

/** The selected choice (auto or auto-large), or undefined if a single model is selected. */
export function choice() {
  const option = find("model").selectedOptions[0];
  return option?.dataset.kind === "choice" ? option.value : undefined;
}

/** The selected page of a document, or frame of an animation. Undefined for all. */
export function page() {
  const { value, valueAsNumber, validity } = find("page");
  return find("page-choice").hidden || !value || !validity.valid ? undefined : valueAsNumber;
}

/** Strength, luminance and colour, 0 to 1. */
export const shares = () => Object.fromEntries(SHARES.map((id) => [id, find(id).value / 100]));

/** The parameters of a request. Defaults are undefined. image: the one to denoise, if any. */
export function parameters(image) {
  const unlessDefault = (id, value) => (find(id).value === value ? undefined : find(id).value);
  return {
    model: model(),
    ...Object.fromEntries(Object.entries(shares()).map(([id, share]) => [id, share === 1 ? undefined : share])),
    output: unlessDefault("output", "clean"),
    format: unlessDefault("format", "png"),
    quality: find("quality-choice").hidden ? undefined : unlessDefault("quality", "default"),
    page: page(),
    force: image?.force || undefined,
  };
}

/** Sets strength, luminance and colour to 100 %. */
export function resetShares() {
  for (const id of SHARES) find(id).value = 100;
  find("strength").focus();
}

/** Updates the texts and the fields that depend on other controls. image: the one on view, if any. */
export function updateControls(image) {
  for (const id of SHARES) find(`${id}-percent`).textContent = `${find(id).value} %`;
  find("reset").hidden = SHARES.every((id) => find(id).value === "100");
  find("quality-choice").hidden = !HAS_QUALITY.includes(find("format").value);
  const url = new URL(address(parameters(image)), location.href).href;
  const quoted = url.includes("?") ? `'${url}'` : url;
  const key = hasKey() ? '-H "Authorization: Bearer $KEY" ' : "";
  find("curl").textContent = `curl ${key}-F image=@noisy.jpg ${quoted} -o clean.png`;
}
