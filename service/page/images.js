// Image files on the page, and their pixels as the browser decodes them.

import { decode } from "./service.js";

// Pixels above which the whole image is drawn from a smaller copy. Each move would read all pixels otherwise.
const OVERVIEW = 2_000_000;
// Side of a thumbnail, in pixels.
const THUMBNAIL = 128;
// Largest side of the sample that the noise is estimated from, in pixels.
const SAMPLE = 1024;

// How a file begins whose samples all have 8 bits: JPEG, GIF, BMP and WebP.
const OF_8_BITS = /^(\xff\xd8|GIF8|BM|RIFF.{4}WEBP)/s;
const PNG = "\x89PNG";
// Where a PNG file says how many bits a sample has.
const PNG_DEPTH = 24;

/**
 * A file that was dropped, pasted or chosen.
 *
 * state: waiting, working, done or failed. detail: a message about it. drawn: whether the service takes it for a
 * drawing, which it does not denoise. force: whether it is denoised all the same.
 */
export class ImageFile {
  constructor(file) {
    this.file = file;
    this.state = "waiting";
    this.detail = "";
    this.drawn = this.force = false;
  }

  /** The name of the downloaded file. output: clean, compare or residual. type: its media type. */
  savedName(output, type) {
    const ending = { "image/jpeg": "jpg" }[type] ?? type.replace(/^image\//, "").replace(/[^a-z0-9].*$/, "");
    const suffix = { clean: "denoised", compare: "compared", residual: "removed" }[output];
    return `${this.file.name.replace(/\.[^.]*$/, "") || "image"}-${suffix}.${ending}`;
  }
}

/**
 * Decodes a file. Returns a bitmap of all pixels, and a small copy for views of the whole image. Close both.
 * exact: whether the bitmap has the file's own values.
 *
 * The service converts to PNG what the browser cannot decode (TIFF, HEIC), and every page but the first. Throws an
 * Error with a message for the user.
 */
export async function open(file, page, signal) {
  let blob = file;
  let pixels = page > 1 ? null : await createImageBitmap(file).catch(() => null);
  if (!pixels) {
    blob = await decode(file, page, signal);
    pixels = await createImageBitmap(blob);
  }
  const reduction = Math.sqrt(OVERVIEW / (pixels.width * pixels.height));
  const exact = await hasOnly8Bits(blob);
  if (reduction >= 1) return { pixels, exact, overview: pixels };
  // From the file, not from the bitmap: then the browser scales it outside the page's thread.
  const options = { resizeWidth: Math.round(pixels.width * reduction), resizeQuality: "high" };
  return { pixels, exact, overview: await createImageBitmap(blob, options) };
}

/** Whether all samples of a file that the browser decodes have 8 bits, as those of a canvas have. */
async function hasOnly8Bits(blob) {
  const bytes = new Uint8Array(await blob.slice(0, PNG_DEPTH + 1).arrayBuffer());
  const start = String.fromCharCode(...bytes);
  return start.startsWith(PNG) ? bytes[PNG_DEPTH] <= 8 : OF_8_BITS.test(start);
}

/** The middle of an image, as PNG, for estimating its noise. */
export function sampleOf(pixels) {
  const [width, height] = [Math.min(SAMPLE, pixels.width), Math.min(SAMPLE, pixels.height)];
  // At a multiple of 8, so that JPEG blocks stay aligned.
  const [left, top] = [(pixels.width - width) >> 4 << 3, (pixels.height - height) >> 4 << 3];
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(pixels, -left, -top);
  return canvas.convertToBlob();
}

/** Frees the memory now, not when the garbage collector runs. */
export function close({ pixels, overview }) {
  pixels.close();
  overview.close();
}

let last = Promise.resolve();

/** Draws a file's thumbnail. One file at a time, because each is decoded whole. */
export function drawThumbnail(file, canvas) {
  last = last.then(async () => {
    if (!canvas.isConnected) return;
    try {
      const small = await createImageBitmap(file, { resizeWidth: THUMBNAIL, resizeQuality: "medium" });
      fillThumbnail(canvas, small);
      small.close();
    } catch {
      // The browser cannot decode it. Its thumbnail is drawn when the image is opened.
    }
  });
}

/** Draws the middle square of a bitmap. */
export function fillThumbnail(canvas, bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  canvas.width = canvas.height = THUMBNAIL;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  context.drawImage(bitmap, left, top, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
}
