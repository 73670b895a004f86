// A file that was dropped, pasted or chosen, and its pixels as the browser has them.

import { denoise } from "./service.js";

// Beyond so many pixels a smaller copy is shown where the whole is, or each move would read all of them.
const OVERVIEW = 2_000_000;
const THUMBNAIL = 128;
const SAMPLE = 1024;

/** A picture on the page. state: waiting, working, done or failed; detail: what there is to say about it. */
export class Picture {
  constructor(file) {
    this.file = file;
    this.state = "waiting";
    this.detail = "";
  }

  /** What its file is called when it comes back as such a type. */
  savedName(output, type) {
    const ending = { "image/jpeg": "jpg" }[type] ?? type.replace(/^image\//, "").replace(/[^a-z0-9].*$/, "");
    const what = { clean: "denoised", compare: "compared", residual: "removed" }[output];
    return `${this.file.name.replace(/\.[^.]*$/, "") || "picture"}-${what}.${ending}`;
  }
}

/**
 * All pixels, a bitmap, with a small copy to show where the whole is; both are to be closed.
 *
 * What the browser cannot decode (TIFF, HEIC) the service turns into PNG, and any page but the first. Throws an Error
 * in words.
 */
export async function open(file, page, signal) {
  let blob = file;
  let pixels = page > 1 ? null : await createImageBitmap(file).catch(() => null);
  if (!pixels) {
    const asItIs = { strength: 0, format: "png", page: page ?? 1 };
    blob = (await denoise(file, asItIs, signal)).picture;
    pixels = await createImageBitmap(blob);
  }
  const reduction = Math.sqrt(OVERVIEW / (pixels.width * pixels.height));
  if (reduction >= 1) return { pixels, overview: pixels };
  // From the file, not from the bitmap: then it is done beside the page.
  const options = { resizeWidth: Math.round(pixels.width * reduction), resizeQuality: "high" };
  return { pixels, overview: await createImageBitmap(blob, options) };
}

/** The middle of a picture, as PNG, from which its noise is told. */
export function sampleOf(pixels) {
  const [width, height] = [Math.min(SAMPLE, pixels.width), Math.min(SAMPLE, pixels.height)];
  // At a multiple of 8, so that JPEG's blocks begin where they did.
  const [left, top] = [(pixels.width - width) >> 4 << 3, (pixels.height - height) >> 4 << 3];
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(pixels, -left, -top);
  return canvas.convertToBlob();
}

/** Let go of the memory at once, not some time later. */
export function close({ pixels, overview }) {
  pixels.close();
  overview.close();
}

let last = Promise.resolve();

/** Draw a file's thumbnail, one at a time: each is decoded whole. What the browser cannot decode stays blank. */
export function drawThumbnail(file, canvas) {
  last = last.then(async () => {
    if (!canvas.isConnected) return;
    try {
      const small = await createImageBitmap(file, { resizeWidth: THUMBNAIL, resizeQuality: "medium" });
      fillThumbnail(canvas, small);
      small.close();
    } catch {
      // It gets one when it is opened.
    }
  });
}

/** The middle of a bitmap, square. */
export function fillThumbnail(canvas, bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  canvas.width = canvas.height = THUMBNAIL;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  context.drawImage(bitmap, left, top, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
}
