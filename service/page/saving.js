// Downloads: the service denoises whole files, and the browser saves the results.

import { find, parameters, say } from "./controls.js";
import * as service from "./service.js";
import { mark } from "./strip.js";

// A larger file, in bytes or pixels, is denoised as a job, which reports its progress.
const LARGE = { bytes: 8e6, pixels: 4e6 };
// Milliseconds until a result's memory is freed. Some browsers read it a little later than the click.
const KEPT = 30_000;
// How the service's list of steps begins if it returns the image as it is.
const UNCHANGED = "unchanged: ";

const jobs = service.takesJobs().catch(() => false);
// The downloads in progress, an AbortController, or null.
let work = null;

export const isSaving = () => work !== null;
export const cancel = () => work?.abort();

/** Denoises and saves images one after the other. onSaved(image, model, unchanged): called for each. Cancels earlier downloads. */
export async function save(images, onSaved) {
  work?.abort();
  const mine = new AbortController();
  work = mine;
  const clock = startClock(images.length);
  const failed = [];
  for (const [done, image] of images.entries()) {
    if (mine.signal.aborted) break;
    if (images.length > 1) find("progress").value = done;
    say(images.length > 1 ? `Denoising ${done + 1} of ${images.length}: ${image.file.name} …` : "Denoising …");
    const onProgress = (share) => share && !mine.signal.aborted && (find("progress").value = done + share);
    if (!(await saveOne(image, onProgress, onSaved, mine.signal))) failed.push(image);
  }
  clearInterval(clock);
  // If other downloads have started, the message and the progress are theirs.
  if (work !== mine) return;
  work = null;
  find("work").hidden = true;
  if (mine.signal.aborted) say("Cancelled.");
  else if (failed.length) say(failureOf(images, failed), true);
  else say(images.length > 1 ? `All ${images.length} images are saved.` : `Saved: ${images[0].detail}`);
}

/** Returns whether the image was saved. */
async function saveOne(image, onProgress, onSaved, signal) {
  mark(image, "working");
  try {
    const { output = "clean", ...others } = parameters(image);
    const asked = { output, ...others };
    const { blob, headers } = (await jobs) && isLarge(image)
      ? await service.denoiseAsJob(image.file, asked, onProgress, signal)
      : await service.denoise(image.file, asked, signal);
    const name = image.savedName(output, blob.type);
    download(blob, name);
    const seconds = Number(headers.get("X-Denoise-Seconds")).toFixed(1);
    const model = decodeURIComponent(headers.get("X-Denoise-Model"));
    const steps = headers.get("X-Denoise-Steps") ?? "";
    const unchanged = steps.startsWith(UNCHANGED);
    const made = unchanged ? `${name}, ${steps}` : `${name}, denoised by ${model} in ${seconds} s`;
    const details = [made, unchanged ? "" : steps, headers.get("X-Denoise-Changed")];
    mark(image, "done", details.filter(Boolean).join("; "));
    onSaved(image, model, unchanged);
    return true;
  } catch (error) {
    mark(image, signal.aborted ? "waiting" : "failed", signal.aborted ? "" : error.message);
    return false;
  }
}

const isLarge = ({ file, pixels = 0 }) => file.size > LARGE.bytes || pixels > LARGE.pixels;

function failureOf(images, failed) {
  const first = `${failed[0].file.name}: ${failed[0].detail}`;
  if (images.length === 1) return first;
  return `${images.length - failed.length} of ${images.length} saved, ${failed.length} failed. ${first}`;
}

/** Hands a result to the browser, which saves it as a download. */
function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT);
}

function startClock(count) {
  find("work").hidden = false;
  if (count > 1) find("progress").max = count;
  else find("progress").removeAttribute("value");
  const start = Date.now();
  const tick = () => {
    find("elapsed").textContent = `${Math.round((Date.now() - start) / 1000)} s`;
  };
  tick();
  return setInterval(tick, 1000);
}
