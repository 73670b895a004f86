// Controls of the page: what the user has selected, and the request parameters for it.

import { canHold } from "./kinds.js";
import { address, hasKey } from "./service.js";

export const find = (id) => document.getElementById(id);
// The sliders and their defaults, in percent.
const DEFAULTS = { strength: 100, luma: 100, chroma: 100, grain: 0 };
const SLIDERS = Object.keys(DEFAULTS);
// Gentle removes all blotches of colour, and leaves some grain.
const PRESETS = {
  gentle: { ...DEFAULTS, luma: 60 },
  normal: DEFAULTS,
  strong: { ...DEFAULTS, strength: 130 },
};
const FORMATS_WITH_QUALITY = ["jpeg", "webp", "avif"];
// The format of the file itself.
const SAME = "same";
// What is saved where the selected format cannot hold an image, the first that can.
const OTHER_FORMATS = [SAME, "png", "tiff"];
const SUFFIXES = { jpeg: "jpg" };

// The format that the user has selected, which is not offered for every image.
let wanted = SAME;

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

/** The page in the field for the page to save. Undefined for all. */
export function enteredPage() {
  const { value, valueAsNumber, validity } = find("page");
  return !value || !validity.valid ? undefined : valueAsNumber;
}

/** The sliders' shares: strength from 0 to 1.5, luma and chroma from 0 to 1, grain from 0 to 0.5. */
const shares = () => Object.fromEntries(SLIDERS.map((id) => [id, find(id).value / 100]));

/**
 * How the view mixes the original and the denoised image: { strength, luma, chroma }.
 *
 * A strength above 1 and grain are not mixed: the service computes them.
 */
export function mixture() {
  const { strength, luma, chroma } = shares();
  return { strength: Math.min(strength, 1), luma, chroma };
}

/** What the service is asked for: a strength above 1, and grain. Undefined where they are not. */
export function computed() {
  const { strength, grain } = shares();
  return { strength: strength > 1 ? strength : undefined, grain: grain || undefined };
}

/** The format that an image is saved in: the selected one, unless it cannot hold the image. */
function formatFor(image) {
  const isPossible = (format) => canHold(format, image?.kind, image?.page);
  return [wanted, ...OTHER_FORMATS].find(isPossible) ?? wanted;
}

/** The name of the format that an image is saved in. */
function formatName(image) {
  const format = formatFor(image);
  return format === SAME ? image?.kind?.format || "png" : format;
}

/** The quality that an image is saved with, or undefined for the format's own. A JPEG file keeps its own. */
function qualityFor(image, format) {
  if (!FORMATS_WITH_QUALITY.includes(format)) return undefined;
  const { value } = find("quality");
  return value === "default" ? ownQuality(image, format) : value;
}

const ownQuality = (image, format) => (format === "jpeg" ? image?.kind?.quality : undefined);

/** The parameters of a request. Defaults are undefined. image: the one to denoise, if any. */
export function parameters(image) {
  const unlessDefault = (value, usual) => (value === usual ? undefined : value);
  const format = formatName(image);
  const changed = Object.entries(shares()).map(([id, share]) => [id, unlessDefault(share, DEFAULTS[id] / 100)]);
  return {
    model: model(),
    ...Object.fromEntries(changed),
    output: unlessDefault(find("output").value, "clean"),
    format: unlessDefault(format, "png"),
    quality: qualityFor(image, format),
    page: image?.page,
    force: image?.force || undefined,
  };
}

function usePreset(values) {
  for (const id of SLIDERS) find(id).value = values[id];
}

/** Checks the preset that the sliders are at, if there is one. */
function showPreset() {
  for (const input of document.querySelectorAll('input[name="preset"]')) {
    input.checked = SLIDERS.every((id) => find(id).valueAsNumber === PRESETS[input.value][id]);
  }
}

/** Offers the formats that can hold the image. */
function offerFormats(image) {
  for (const option of find("format").options) {
    option.hidden = option.disabled = !canHold(option.value, image?.kind, image?.page);
  }
  const own = image?.kind?.format;
  find("same").textContent = own ? `same: ${own.toUpperCase()}` : "same";
  find("format").value = formatFor(image);
  const format = formatName(image);
  const quality = ownQuality(image, format);
  find("quality-choice").hidden = !FORMATS_WITH_QUALITY.includes(format);
  find("usual-quality").textContent = quality ? `same: ${quality}` : "default";
}

/** Updates the texts and the fields that depend on other controls. image: the one on view, if any. */
export function updateControls(image) {
  for (const id of SLIDERS) find(`${id}-percent`).textContent = `${find(id).value} %`;
  showPreset();
  offerFormats(image);
  find("download").disabled = Boolean(image?.broken);
  const asked = parameters(image);
  const url = new URL(address(asked), location.href).href;
  const quoted = url.includes("?") ? `'${url}'` : url;
  const key = hasKey() ? '-H "Authorization: Bearer $KEY" ' : "";
  find("curl").textContent = `curl ${key}-F image=@noisy.jpg ${quoted} -o clean.${suffixOf(asked.format)}`;
}

const suffixOf = (format = "png") => SUFFIXES[format] ?? format;

find("format").addEventListener("input", () => {
  wanted = find("format").value;
});
find("presets").addEventListener("input", (event) => usePreset(PRESETS[event.target.value]));
