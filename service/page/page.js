// The page: opens images, shows one before and after, and saves the results.

import { filesOf, filesOfFolder } from "./adding.js";
import {
  choice,
  find,
  mixture,
  model,
  networkStrength,
  page,
  say,
  showsRemoved,
  updateControls,
} from "./controls.js";
import { close, fillThumbnail, isBroken, kindOf, open, sampleOf } from "./images.js";
import { listRemembered } from "./jobs.js";
import { describeModel, listModels } from "./models.js";
import { hideNoise, isDrawn, isNormalised, isUnchanged, noteDrawn, showNoise } from "./noise.js";
import { Preview } from "./preview.js";
import { cancel, isSaving, save, saveAll } from "./saving.js";
import * as service from "./service.js";
import { add, images, mark, markBroken, remove, select, usable } from "./strip.js";
import { View } from "./view.js";

// Milliseconds without a move before tiles are requested.
const REST = 120;
// Status of the service for a file with too many bytes or pixels.
const TOO_LARGE = 413;
const NO_FILE = "No file found. Drop or paste images, or choose files.";
const MAY_HAVE_PAGES = /\.(tiff?|gif|webp|apng|avif)$/i;

// The image on view, and its bitmaps once they are decoded.
let current = null;
let opened = null;
// The request that decodes it, an AbortController, and whether it still runs.
let opening = null;
let reading = false;
// A promise of its noise: the service's answer.
let estimated = null;
// The timer that waits until the view rests.
let resting = null;
// The strength that the tiles were requested with.
let requestedStrength;

const preview = new Preview(showPreview, (error) => say(error.message, true));
let listing = list();
const view = new View(
  { viewport: find("viewport"), canvas: find("canvas"), split: find("split"), handle: find("handle") },
  viewMoved
);

function settingsChanged() {
  const removed = showsRemoved();
  view.setLook({ ...mixture(), removed: removed ? preview.gain : 0 });
  find("tag-removed").textContent = preview.gain > 1 ? `removed, amplified ${preview.gain} times` : "removed";
  find("stage").classList.toggle("removed", removed);
  updateControls(current);
  if (networkStrength() !== requestedStrength) {
    requestedStrength = networkStrength();
    requestSoon();
  }
}

// The image on view.

/** Shows an image, or none. Returns false if the file turns out to be broken. */
async function show(image) {
  opening?.abort();
  const mine = new AbortController();
  opening = mine;
  release();
  current = image;
  if (!isSaving()) say("");
  reading = Boolean(image);
  showPreview();
  find("desk").hidden = find("panel").hidden = !image;
  document.body.classList.toggle("open", Boolean(image));
  if (!image) return true;
  image.seen = true;
  updateControls(image);
  find("page-choice").hidden = !MAY_HAVE_PAGES.test(image.file.name);
  find("name").textContent = image.file.name;
  find("facts").textContent = inUnits(image.file.size);
  hideNoise();
  notice("Reading …");
  try {
    const bitmaps = await open(image.file, page(), mine.signal);
    image.kind = await kindOf(image.file, bitmaps);
    if (mine.signal.aborted) close(bitmaps);
    else present(image, bitmaps, mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return true;
    reading = false;
    showPreview();
    if (isBroken(error)) markBroken(image, error.message);
    else mark(image, "failed", error.message);
    notice("This image cannot be shown.");
    say(`${image.file.name}: ${error.message}`, true);
    updateControls(image);
    return !image.broken;
  }
  return true;
}

function present(image, bitmaps, signal) {
  opened = bitmaps;
  reading = false;
  const { width, height } = bitmaps.pixels;
  image.pixels = width * height;
  find("facts").textContent = [`${width} × ${height}`, megapixels(image.pixels), inUnits(image.file.size)].join(", ");
  fillThumbnail(image.item.querySelector("canvas"), bitmaps.overview);
  notice("");
  estimated = estimate(image, bitmaps, signal);
  describeNoise().catch((error) => !signal.aborted && say(error.message, true));
  preview.show(bitmaps.pixels);
  view.show(bitmaps, preview.tiles);
}

/** Shows the estimated noise, and the model that is chosen for it. */
async function describeNoise() {
  const asked = opened;
  const found = await estimated;
  await listing;
  if (opened === asked) showNoise(found, choice(), current);
}

async function estimate(image, bitmaps, signal) {
  const found = await measured(image, bitmaps, signal);
  if (!signal.aborted) {
    noteDrawn(image, isDrawn(found));
    updateControls(image);
  }
  return found;
}

/**
 * The service's estimate of the noise.
 *
 * A sample of the pixels suffices, and is a small upload. But a bitmap has 8 bits: it has lost the units of a file with
 * 16 bits or floats, and noise below a step of 8 bits. Then the file itself is sent, unless it is over a limit.
 */
async function measured(image, { pixels, exact }, signal) {
  if (!exact) {
    try {
      return await service.estimate(image.file, page(), signal);
    } catch (error) {
      if (error.status !== TOO_LARGE) throw error;
    }
  }
  return service.estimate(await sampleOf(pixels), undefined, signal);
}

/** Frees the image that was on view. */
function release() {
  clearTimeout(resting);
  preview.show(null);
  view.show(null);
  if (opened) close(opened);
  opened = null;
  resting = null;
}

function notice(text) {
  find("notice").textContent = text;
  find("notice").hidden = !text;
  find("stage").classList.toggle("blank", Boolean(text));
}

/** With two digits at least: 24 Mpx, 2.1 Mpx, 0.036 Mpx. */
const megapixels = (pixels) => `${pixels < 1e7 ? Number((pixels / 1e6).toPrecision(2)) : Math.round(pixels / 1e6)} Mpx`;

function inUnits(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function viewMoved() {
  const percent = view.scale * 100;
  find("scale").value = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
  find("fit").setAttribute("aria-pressed", view.fitted);
  find("actual").setAttribute("aria-pressed", view.scale === 1);
  requestSoon();
}

/** Requests the visible tiles once nothing has changed for a while. */
function requestSoon() {
  clearTimeout(resting);
  resting = opened && setTimeout(requestVisible, REST);
  showPreview();
}

/** Updates the preview and the description, after another model was chosen or another way to treat a drawing. */
function treatmentChanged() {
  requestVisible();
  // A failed estimate was reported when it was made.
  if (opened) describeNoise().catch(() => {});
}

async function requestVisible() {
  const asked = opened;
  // A failed estimate was reported when it was made.
  const parameters = await previewParameters().catch(() => ({ model: model() }));
  // If another image is on view by now, this function runs again for it.
  if (!asked || opened !== asked) return;
  resting = null;
  preview.request(view.visible, view.level, parameters);
}

/** The parameters for all tiles, or null if the image stays as it is. */
async function previewParameters() {
  const image = current;
  const [found] = await Promise.all([estimated, listing]);
  if (isUnchanged(image)) return null;
  // The service would choose a model for each tile, and normalise a tile of bright sky for instance.
  return {
    model: choice() ? found.models[choice()] : model(),
    normalise: isNormalised(found) ? undefined : "off",
    force: image.force || undefined,
    strength: networkStrength(),
  };
}

function showPreview() {
  const { progress } = preview;
  find("preview").value = progress;
  find("preview").hidden = progress === 1;
  find("viewport").setAttribute("aria-busy", reading || resting !== null || progress < 1);
  if (view.look?.removed && view.look.removed !== preview.gain) settingsChanged();
  view.draw();
}

/** If the service treated the whole image in another way than its estimate said, the preview follows. */
async function saved(image, name, unchanged) {
  const wasUnchanged = isUnchanged(image);
  if (!image.force) noteDrawn(image, unchanged);
  const asked = opened;
  if (image !== current || !asked) return;
  // A failed estimate was reported when it was made.
  const found = await estimated.catch(() => null);
  if (!found || opened !== asked) return;
  const isOther = choice() && found.models[choice()] !== name;
  if (isOther) estimated = Promise.resolve({ ...found, models: { ...found.models, [choice()]: name } });
  if (isOther || wasUnchanged !== isUnchanged(image)) treatmentChanged();
}

// The images on the page.

/** Adds files, and shows the first that can be opened. others: number of files that were left out. */
async function take({ files, others = 0 }) {
  if (!files.length) return say(others ? noImagesIn(others) : NO_FILE, true);
  const added = [...files].map((file) => add(file, show, () => find("status").textContent === said && report()));
  let said = "";
  const report = () => {
    const [text, wrong] = reportOf(added, others);
    said = text;
    say(text, wrong);
  };
  for (const image of added) {
    select(image);
    const shown = show(image);
    if (added.length > 1) report();
    if (await shown) break;
  }
  // If none can be opened, the error of the last stays.
  if (added.some((image) => image.broken) && !added.every((image) => image.broken)) report();
}

/** What was added, and whether some of it is broken. */
function reportOf(added, others) {
  const left = others ? ` ${others} other ${others === 1 ? "file was" : "files were"} left out.` : "";
  const [first, ...more] = added.filter((image) => image.broken);
  if (!first) return [`${added.length} images added.${left}`, false];
  const count = added.length - 1 - more.length;
  return [`${count} of ${added.length} images added.${left} ${first.file.name}: ${first.detail}`, true];
}

const noImagesIn = (others) =>
  `No image found: ${others === 1 ? "the only file in the folder is none" : `none of the ${others} files in the folder is one`}.`;

function selectAndShow(image) {
  if (image) select(image);
  show(image ?? null);
}

// The models.

/** Lists the models. Reports an error. */
async function list() {
  try {
    await listModels();
    describeModel();
    settingsChanged();
  } catch (error) {
    say(error.message, true);
  }
}

// Input.

find("file").addEventListener("change", (event) => {
  // A copy: the next line empties the list.
  const files = [...event.target.files];
  // So that the same file can be chosen again.
  event.target.value = "";
  if (files.length) take({ files });
});
find("folder").addEventListener("change", (event) => {
  const found = filesOfFolder(event.target.files);
  event.target.value = "";
  take(found);
});
// Phones have no folders to choose.
find("folder-choice").hidden = !("webkitdirectory" in find("folder"));
document.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  // Text is pasted into the field that has the focus.
  if (files.length || event.target.localName !== "input") take({ files: [...files] });
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
for (const end of ["dragleave", "dragend", "drop"]) {
  document.addEventListener(end, () => document.body.classList.remove("dragging"));
}
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  const found = filesOf(event.dataTransfer);
  // Files alone are there at once. Folders are read first.
  take(found instanceof Promise ? await found : found);
});

find("panel").addEventListener("input", settingsChanged);
find("look").addEventListener("change", settingsChanged);
find("model").addEventListener("change", () => {
  describeModel();
  treatmentChanged();
});
find("force").addEventListener("input", (event) => {
  current.force = event.target.checked;
  treatmentChanged();
});
find("page").addEventListener("change", () => show(current));
find("in").addEventListener("click", () => opened && view.step(true));
find("out").addEventListener("click", () => opened && view.step(false));
find("fit").addEventListener("click", () => opened && view.fit());
find("actual").addEventListener("click", () => opened && view.zoom(1));
find("remove").addEventListener("click", () => selectAndShow(remove(current)));
find("download").addEventListener("click", () => save(current, saved));
find("download-all").addEventListener("click", () => saveAll(usable(), saved));
find("cancel").addEventListener("click", cancel);
document.addEventListener("keydown", (event) => event.key === "Escape" && cancel());

document.addEventListener("keyrequired", () => {
  if (!find("entry").hidden) return;
  find("entry").hidden = false;
  find("key").focus();
});
find("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  service.useKey(find("key").value);
  find("entry").hidden = true;
  find("key").value = "";
  say("");
  listing = list();
  listRemembered();
  if (current) show(current);
});

// Images that were denoised for the view, but not saved.
addEventListener("beforeunload", (event) => {
  if (isSaving() || images.some(({ seen, state }) => seen && state === "waiting")) event.preventDefault();
});

settingsChanged();
listRemembered();
