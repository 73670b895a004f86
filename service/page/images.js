// Image files on the page, and their pixels as the browser decodes them.

import { describe, hasTransparency } from "./kinds.js";
import { decode } from "./service.js";

// Pixels above which the whole image is drawn from a smaller copy. Each move would read all pixels otherwise.
const OVERVIEW = 2_000_000;
// Side of a thumbnail, in pixels.
const THUMBNAIL = 128;
// Largest side of the sample that the noise is estimated from, in pixels.
const SAMPLE = 1024;

// How a file begins whose samples all have 8 bits: JPEG, GIF, BMP and WebP.
const OF_8_BITS = /^(\xff\xd8|GIF8|BM|RIFF.{4}WEBP)/s;
// Formats whose header says whether there is transparency. Of others, the pixels are looked at.
const HEADER_TELLS = ["jpeg", "png", "webp", "tiff"];
// Names of files that browsers do not decode, but the service does.
const FOR_SERVICE =
  /\.(tiff?|hei[cf]|jxl|jp2|j2k|p[pgbna]m|pfm|qoi|exr|dng|3fr|arw|cr[23w]|dcr|erf|fff|iiq|kdc|m[eo][fs]|mrw|n[er][fw]|orf|pef|raf|rw[2l]|sr[2fw]|x3f)$/i;
// Statuses of the service for a file that is no image, too large, or of a kind that is not supported.
const BROKEN = [400, 413, 415];
const PNG = "\x89PNG";
// Where a PNG file says how many bits a sample has.
const PNG_DEPTH = 24;

/**
 * A file that was dropped, pasted or chosen.
 *
 * folder: the path of the folder that it came in, with a slash at its end, or "". state: waiting, working, done or
 * failed. detail: a message about it. broken: whether it cannot be opened. drawn: whether the service takes it for a
 * drawing, which it does not denoise. force: whether it is denoised all the same. kind: what `describe` tells, once it
 * is known. seen: whether it has been on view.
 */
export class ImageFile {
  constructor(file) {
    this.file = file;
    this.folder = file.folder ?? "";
    this.state = "waiting";
    this.detail = "";
    this.broken = this.drawn = this.force = this.seen = false;
    this.kind = null;
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

/** What a file is, as `describe` tells, with the transparency of the opened bitmaps. */
export async function kindOf(file, { overview }) {
  const kind = await describe(file);
  if (!HEADER_TELLS.includes(kind.format)) kind.transparent = hasTransparency(overview);
  return kind;
}

/** Frees the memory now, not when the garbage collector runs. */
export function close({ pixels, overview }) {
  pixels.close();
  overview.close();
}

let last = Promise.resolve();

/**
 * Draws an image's thumbnail. One image at a time, because each is decoded whole.
 *
 * onBroken(error): it is no image, or a broken one.
 */
export function drawThumbnail(image, canvas, onBroken) {
  last = last.then(async () => {
    // It has left the page, or was opened meanwhile.
    if (!canvas.isConnected || image.seen || image.broken) return;
    const options = { resizeWidth: THUMBNAIL, resizeQuality: "medium" };
    try {
      const small = await createImageBitmap(image.file, options).catch(() => fromService(image.file, options));
      if (small) fillThumbnail(canvas, small);
      small?.close();
    } catch (error) {
      if (isBroken(error)) onBroken(error);
    }
  });
}

/** A bitmap of a file that the browser cannot decode; null for a kind that browsers do not know. */
async function fromService(file, options) {
  // Such a file can be large, so it is sent when it is opened.
  return FOR_SERVICE.test(file.name) ? null : createImageBitmap(await decode(file), options);
}

/** Whether an error says that the file itself cannot be used. */
export const isBroken = ({ status }) => BROKEN.includes(status);

/** Draws the middle square of a bitmap. */
export function fillThumbnail(canvas, bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  canvas.width = canvas.height = THUMBNAIL;
  canvas.classList.add("drawn");
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  context.drawImage(bitmap, left, top, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
}
