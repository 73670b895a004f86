// Results: denoised files, which are kept for some minutes. Saving one again with the same options takes no time.

import { denoiseAsJob } from "./jobs.js";
import * as service from "./service.js";

// A larger file, in bytes or pixels, is denoised as a job, which reports its progress. If the pixels are not known, a
// compressed file can be large from `unknown` bytes on.
const LARGE = { bytes: 8e6, pixels: 4e6, unknown: 2e6 };
// Bytes of all kept results. The oldest go first.
const MAX_KEPT = 500e6;
// Milliseconds that a result is kept. Meanwhile the service may get other weights.
const KEPT = 10 * 60_000;

const jobs = service.takesJobs().catch(() => false);
// The kept results, oldest first, as { image, asked, result, since }.
let kept = [];

/**
 * The denoised file of an image: { blob, headers, again }, where again tells that it was kept.
 *
 * asked: the parameters of the request. onProgress: called with the share that is done.
 */
export async function resultOf(image, asked, onProgress, signal) {
  const key = service.address(asked);
  kept = kept.filter(({ since }) => Date.now() - since < KEPT);
  const found = kept.find((each) => each.image === image && each.asked === key);
  if (found) return { ...found.result, again: true };
  const result = (await jobs) && isLarge(image)
    ? await denoiseAsJob(image.file, asked, onProgress, signal)
    : await service.denoise(image.file, asked, signal);
  keep({ image, asked: key, result, since: Date.now() });
  return result;
}

/** Frees the results of an image that has left the page. */
export function dropResults(image) {
  kept = kept.filter((each) => each.image !== image);
}

function keep(entry) {
  kept.push(entry);
  let size = kept.reduce((sum, { result }) => sum + result.blob.size, 0);
  while (size > MAX_KEPT) size -= kept.shift().result.blob.size;
}

const isLarge = ({ file, pixels }) => file.size > (pixels ? LARGE.bytes : LARGE.unknown) || pixels > LARGE.pixels;
