// Downloads: the service denoises whole files, and the browser saves the results: one as a file, several in a zip.

import { find, parameters, say } from "./controls.js";
import { describe } from "./kinds.js";
import { saveAs, savedName } from "./names.js";
import { resultOf } from "./results.js";
import { mark } from "./strip.js";
import { Zip } from "./zip.js";

// Bytes and files of a zip, after which the next zip begins. Zips of more than 4 GiB or 65,535 files need Zip64, and
// the browser holds a zip until it is saved.
const MAX_ZIP = { bytes: 2e9, files: 60_000 };
const ZIP_NAME = "denoised";
// How the service's list of steps begins if it returns the image as it is.
const UNCHANGED = "unchanged: ";

// The downloads in progress, an AbortController, or null.
let work = null;

export const isSaving = () => work !== null;
export const cancel = () => work?.abort();

/**
 * Denoises and saves an image. Cancels earlier downloads.
 *
 * onSaved(image, model, unchanged): called then. ready: a promise that is waited for first.
 */
export async function save(image, onSaved, ready = Promise.resolve()) {
  const mine = begin(1);
  say("Denoising …");
  await Promise.race([ready, aborted(mine.signal)]);
  const result = mine.signal.aborted ? null : await denoised(image, showShare(mine, 0), mine.signal);
  if (result) {
    saveAs(result.blob, result.name);
    markSaved(image, result, onSaved);
  }
  end(mine, () => (result ? say(`Saved: ${image.detail}`) : say(`${image.file.name}: ${image.detail}`, true)));
}

/**
 * Denoises images one after the other, and saves them in a zip, or in several if there are many.
 *
 * onSaved, ready: as for `save`.
 */
export async function saveAll(images, onSaved, ready = Promise.resolve()) {
  const mine = begin(images.length);
  await Promise.race([ready, aborted(mine.signal)]);
  const failed = [];
  const zips = new Zips();
  for (const [done, image] of images.entries()) {
    if (mine.signal.aborted) break;
    find("progress").value = done;
    say(`Denoising ${done + 1} of ${images.length}: ${image.file.name} …`);
    const result = await denoised(image, showShare(mine, done), mine.signal);
    if (result) await zips.add(image, result);
    else failed.push(image);
    if (zips.isFull) zips.save(onSaved);
  }
  if (mine.signal.aborted) zips.forget();
  else zips.save(onSaved, true);
  end(mine, () => reportAll(images, failed, zips));
}

function reportAll(images, failed, zips) {
  const count = images.length;
  if (!failed.length) return say(`All ${count} images are saved in ${zips.words}.`);
  const [first] = failed;
  const saved = zips.words && ` in ${zips.words}`;
  say(
    `${count - failed.length} of ${count} saved${saved}, ${failed.length} failed. ${first.file.name}: ${first.detail}`,
    true
  );
}

/** The zips of one download. */
class Zips {
  names = [];

  constructor() {
    this.start();
  }

  start() {
    this.zip = new Zip();
    this.entries = [];
  }

  get isFull() {
    return this.zip.size > MAX_ZIP.bytes || this.zip.count >= MAX_ZIP.files;
  }

  /** The names of the saved zips. */
  get words() {
    return this.names.join(", ");
  }

  async add(image, result) {
    await this.zip.add(`${image.folder}${result.name}`, result.blob);
    this.entries.push([image, result]);
  }

  /** last: no other zip follows. */
  save(onSaved, last = false) {
    if (!this.entries.length) return;
    const only = last && !this.names.length;
    const name = only ? `${ZIP_NAME}.zip` : `${ZIP_NAME}-${this.names.length + 1}.zip`;
    saveAs(this.zip.blob(), name);
    this.names.push(name);
    for (const [image, result] of this.entries) markSaved(image, result, onSaved);
    this.start();
  }

  /** The results are not saved. */
  forget() {
    for (const [image] of this.entries) mark(image, "waiting");
  }
}

/** A denoised image, { blob, name, model, unchanged, detail }, or null if it failed or the work was cancelled. */
async function denoised(image, onProgress, signal) {
  mark(image, "working");
  try {
    image.kind ??= await describe(image.file);
    const { output = "clean", ...others } = parameters(image);
    const { blob, headers, again } = await resultOf(image, { output, ...others }, onProgress, signal);
    const name = savedName(image.file.name, output, blob.type);
    const model = decodeURIComponent(headers.get("X-Denoise-Model"));
    const steps = headers.get("X-Denoise-Steps") ?? "";
    const unchanged = steps.startsWith(UNCHANGED);
    const time = again ? "earlier" : `in ${inSeconds(Number(headers.get("X-Denoise-Seconds")))}`;
    const made = unchanged ? `${name}, ${steps}` : `${name}, denoised by ${model} ${time}`;
    const isOwn = others.quality && others.quality === image.kind.quality;
    const quality = isOwn ? `JPEG quality ${others.quality}, as the file` : "";
    const details = [made, unchanged ? "" : steps, quality, headers.get("X-Denoise-Changed")];
    return { blob, name, model, unchanged, detail: details.filter(Boolean).join("; ") };
  } catch (error) {
    mark(image, signal.aborted ? "waiting" : "failed", signal.aborted ? "" : error.message);
    return null;
  }
}

function markSaved(image, { model, unchanged, detail }, onSaved) {
  mark(image, "done", detail);
  onSaved(image, model, unchanged);
}

const aborted = (signal) => new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));

const inSeconds = (seconds) => (seconds < 0.1 ? "less than 0.1 s" : `${seconds.toFixed(1)} s`);

/** Shows the progress of one image after `done` others. */
const showShare = (mine, done) => (share) => share && !mine.signal.aborted && (find("progress").value = done + share);

// The progress, and what it says at the end.

/** Starts downloads, and ends earlier ones. Returns an AbortController. */
function begin(count) {
  work?.abort();
  work = Object.assign(new AbortController(), { clock: startClock(count) });
  return work;
}

/** report: called to say how it went, unless it was cancelled. */
function end(mine, report) {
  clearInterval(mine.clock);
  // If other downloads have started, the message and the progress are theirs.
  if (work !== mine) return;
  work = null;
  find("work").hidden = true;
  if (mine.signal.aborted) say("Cancelled.");
  else report();
}

function startClock(count) {
  find("work").hidden = false;
  find("progress").max = count;
  find("progress").removeAttribute("value");
  const start = Date.now();
  const tick = () => {
    find("elapsed").textContent = `${Math.round((Date.now() - start) / 1000)} s`;
  };
  tick();
  return setInterval(tick, 1000);
}
