// The page: opens images, shows one before and after, and saves the results.

import { filesOf, filesOfFolder } from "./adding.js";
import {
  choice,
  computed,
  enteredPage,
  find,
  mixture,
  model,
  parameters,
  say,
  showsRemoved,
  updateControls,
} from "./controls.js";
import { AUTO, Contrast } from "./contrast.js";
import { fillThumbnail, isBroken, kindOf } from "./images.js";
import { listRemembered } from "./jobs.js";
import { describeModel, listModels } from "./models.js";
import { hideNoise, isDrawn, isUnchanged, noteDrawn, showNoise } from "./noise.js";
import { Pages } from "./pages.js";
import { Preview } from "./preview.js";
import { cancel, isSaving, save, saveAll } from "./saving.js";
import * as service from "./service.js";
import { Source, glimpse, typeInWords } from "./source.js";
import { add, images, mark, markBroken, remove, select, usable } from "./strip.js";
import { View } from "./view.js";

// Milliseconds without a move before tiles are requested.
const REST = 120;
const PAGE_KEYS = ["PageUp", "PageDown", "<", ">"];
const NO_FILE = "No file found. Drop or paste images, or choose files.";
const MAY_HAVE_PAGES = /\.(tiff?|gif|webp|apng|avif)$/i;

// The image on view, and what is shown of it once it is read: its source, its size (pixels) and a small bitmap of it
// (overview). A glimpse has no source.
let current = null;
let opened = null;
// The requests that read it, an AbortController, and whether they still run.
let opening = null;
let reading = false;
// The model that the service took for the whole file, if it is another one than the estimate's.
let corrected = null;
// A promise of its noise: the service's answer.
let estimated = null;
// The timer that waits until the view rests.
let resting = null;
// Whether the user has opened or closed the contrast; null as long as it follows the image.
let contrastOpen = null;
// What the tiles were requested with, as text.
let requested = JSON.stringify({});

const preview = new Preview(showPreview, (error) => say(error.message, true));
let listing = list();
const view = new View(
  { viewport: find("viewport"), canvas: find("canvas"), split: find("split"), handle: find("handle") },
  viewMoved,
  (by) => pages.step(by)
);
const contrast = new Contrast(
  { plot: find("histogram"), black: find("black"), white: find("white"), auto: find("auto"), words: find("points") },
  () => contrastChanged()
);
const pages = new Pages(
  { group: find("pages"), slider: find("shown"), before: find("before"), after: find("after"), words: find("shown-words") },
  (number) => turnTo(number)
);

function settingsChanged() {
  const removed = showsRemoved();
  view.setLook({ ...mixture(), removed: removed ? preview.gain : 0 });
  find("tag-removed").textContent = preview.gain > 1 ? `removed, amplified ${preview.gain} times` : "removed";
  find("stage").classList.toggle("removed", removed);
  updateControls(current);
  const asked = JSON.stringify(computed());
  if (asked !== requested) {
    requested = asked;
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
  find("page").value = image.page ?? "";
  find("name").textContent = image.file.name;
  find("facts").textContent = inUnits(image.file.size);
  hideNoise();
  notice("Reading …");
  const number = image.page ?? image.shown;
  if (number === 1) showGlimpse(image, mine.signal);
  const source = new Source(image.file);
  try {
    const overview = await source.open(number, AUTO, mine.signal);
    image.kind = await kindOf(image.file, overview);
    if (mine.signal.aborted) overview.close();
    else present(image, source, overview, mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return true;
    reading = false;
    showPreview();
    if (isBroken(error)) markBroken(image, error.message);
    else mark(image, "failed", error.message);
    if (!opened) notice("This image cannot be shown.");
    say(`${image.file.name}: ${error.message}`, true);
    updateControls(image);
    return !image.broken;
  }
  return true;
}

/** Shows a large file as the browser decodes it, until the service has read it. */
async function showGlimpse(image, signal) {
  const found = await glimpse(image.file);
  if (!found) return;
  if (signal.aborted || opened) return found.overview.close();
  opened = found;
  image.pixels ??= found.pixels.width * found.pixels.height;
  notice("");
  view.show(found, preview.tiles);
}

function present(image, source, overview, signal) {
  const { width, height, type, pages: count } = source.about;
  opened?.overview.close();
  opened = { source, overview, pixels: { width, height } };
  reading = false;
  image.pixels = width * height;
  image.shown = source.page;
  find("page-choice").hidden = count < 2;
  const facts = [`${width} × ${height}`, megapixels(image.pixels), typeInWords(type), count > 1 ? `${count} pages` : ""];
  find("facts").textContent = [...facts, inUnits(image.file.size)].filter(Boolean).join(", ");
  fillThumbnail(image.item.querySelector("canvas"), overview);
  notice("");
  contrast.show(source.about);
  pages.show(source.page, count);
  showContrast(type);
  estimated = estimate(image, source, signal);
  describeNoise().catch((error) => !signal.aborted && say(error.message, true));
  preview.show(source);
  view.show(opened, preview.tiles, true);
}

/** Shows another page of the file on view. */
async function turnTo(number) {
  if (!opened?.source) return;
  opening?.abort();
  const mine = new AbortController();
  opening = mine;
  const image = current;
  const { source } = opened;
  reading = true;
  preview.stop();
  showPreview();
  try {
    const overview = await source.open(number, contrast.points, mine.signal);
    if (mine.signal.aborted) return overview.close();
    present(image, source, overview, mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return;
    reading = false;
    pages.show(source.page, source.about.pages);
    requestVisible();
    say(`${image.file.name}: ${error.message}`, true);
  }
}

/** Shows the histogram and its handles, unless the image is made for a screen or the user has closed them. */
function showContrast(type) {
  const isOpen = contrastOpen ?? type !== "uint8";
  find("contrast").hidden = !isOpen;
  find("contrast-toggle").hidden = false;
  find("contrast-toggle").setAttribute("aria-expanded", isOpen);
}

/** Renders the image on view with other black and white points. */
async function contrastChanged() {
  const asked = opened;
  if (!asked?.source) return;
  requestVisible();
  const { points } = contrast;
  try {
    const overview = await asked.source.overview(points, opening.signal);
    if (opened !== asked || contrast.points !== points) return overview.close();
    asked.overview.close();
    asked.overview = overview;
    fillThumbnail(current.item.querySelector("canvas"), overview);
    view.draw();
  } catch (error) {
    if (opened === asked && !opening.signal.aborted) say(error.message, true);
  }
}

/** Shows the estimated noise, and the model that is chosen for it. */
async function describeNoise() {
  const asked = opened;
  const found = await estimated;
  await listing;
  if (opened === asked) showNoise(found, choice(), current);
}

async function estimate(image, source, signal) {
  const found = await source.estimate(signal);
  if (!signal.aborted) {
    noteDrawn(image, isDrawn(found));
    updateControls(image);
  }
  return found;
}

/** Frees the image that was on view. */
function release() {
  clearTimeout(resting);
  preview.show(null);
  view.show(null);
  opened?.overview.close();
  opened = corrected = null;
  contrast.clear();
  pages.clear();
  find("contrast").hidden = find("contrast-toggle").hidden = true;
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
  if (opened?.source) describeNoise().catch(() => {});
}

async function requestVisible() {
  const asked = opened;
  if (!asked?.source) {
    resting = null;
    return;
  }
  // A failed estimate was reported when it was made.
  const parameters = await previewParameters().catch(() => ({ output: "compare", model: model() }));
  // If another image is on view by now, this function runs again for it.
  if (opened !== asked) return;
  resting = null;
  preview.request(view.visible, view.level, { ...contrast.points, ...parameters });
}

/** The parameters for all tiles. */
async function previewParameters() {
  const image = current;
  await Promise.all([estimated, listing]);
  if (isUnchanged(image)) return { output: "noisy" };
  return {
    output: "compare",
    model: corrected ?? model(),
    force: image.force || undefined,
    ...computed(),
  };
}

function showPreview() {
  const { progress } = preview;
  // A short rest after each move is not shown.
  const isBusy = reading || progress < 1 || (resting !== null && !preview.visible.length);
  // Of a single tile it is not known how much is done.
  if (progress && progress < 1) find("preview").value = progress;
  else find("preview").removeAttribute("value");
  find("preview").hidden = !isBusy;
  find("tag-after").textContent = isBusy ? "denoising …" : "after";
  find("viewport").setAttribute("aria-busy", isBusy || resting !== null);
  if (view.look?.removed && view.look.removed !== preview.gain) settingsChanged();
  view.draw();
}

/** If the service treated the whole image in another way than its estimate said, the preview follows. */
async function saved(image, name, unchanged) {
  const wasUnchanged = isUnchanged(image);
  if (!image.force) noteDrawn(image, unchanged);
  const asked = opened;
  if (image !== current || !asked?.source) return;
  // A failed estimate was reported when it was made.
  const found = await estimated.catch(() => null);
  if (!found || opened !== asked) return;
  const isOther = choice() && found.models[choice()] !== name;
  if (isOther) {
    corrected = name;
    estimated = Promise.resolve({ ...found, models: { ...found.models, [choice()]: name } });
  }
  if (isOther || wasUnchanged !== isUnchanged(image)) treatmentChanged();
}

/**
 * Runs a download while the view sends no requests. What is denoised for the view may be what is saved: then the
 * download waits for it.
 *
 * download: called with a promise that is waited for first.
 */
async function saveInPeace(download) {
  const image = current;
  const { output, luma, chroma, page, strength = 1 } = parameters(image);
  const isShown = !output && luma === undefined && chroma === undefined && !page && strength >= 1;
  await download(preview.pause(isShown));
  if (current === image) preview.resume();
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
  corrected = null;
  describeModel();
  treatmentChanged();
});
find("force").addEventListener("input", (event) => {
  current.force = event.target.checked;
  treatmentChanged();
});
find("page").addEventListener("change", () => {
  current.page = enteredPage();
  show(current);
});
find("contrast-toggle").addEventListener("click", () => {
  contrastOpen = find("contrast").hidden;
  showContrast();
});
find("in").addEventListener("click", () => opened && view.step(true));
find("out").addEventListener("click", () => opened && view.step(false));
find("fit").addEventListener("click", () => opened && view.fit());
find("actual").addEventListener("click", () => opened && view.zoom(1));
find("remove").addEventListener("click", () => selectAndShow(remove(current)));
find("download").addEventListener("click", () => saveInPeace((ready) => save(current, saved, ready)));
find("download-all").addEventListener("click", () => saveInPeace((ready) => saveAll(usable(), saved, ready)));
find("cancel").addEventListener("click", cancel);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") cancel();
  // Keys for the pages work wherever nothing else takes them.
  else if (document.activeElement === document.body && pages.count > 1 && PAGE_KEYS.includes(event.key)) view.key(event);
});

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
