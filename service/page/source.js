// Image on view: its size, its overview and its parts, as the service renders them from the file's own samples.

import * as service from "./service.js";

// Longest side of the overview, in pixels. The whole image is drawn from it until its parts are there.
const OVERVIEW = 1600;
// Files from this size on are shown as the browser decodes them until the service has read them, in bytes.
const SLOW = 1_000_000;
// Status of the service for a view that it no longer keeps.
const GONE = 404;
// How a file begins whose samples all have 8 bits: JPEG, GIF, BMP and WebP.
const OF_8_BITS = /^(\xff\xd8|GIF8|BM|RIFF.{4}WEBP)/s;
const PNG = "\x89PNG";
// Where a PNG file says how many bits a sample has.
const PNG_DEPTH = 24;
// Types of samples, for people. Others are called by their own name.
const TYPES = { uint8: "8 bits", uint16: "16 bits", float32: "32-bit float", float64: "64-bit float" };
const INTEGERS = { int8: "signed 8 bits", int16: "signed 16 bits", int32: "signed 32 bits", uint32: "32 bits" };

/** The words for a type of samples. */
export const typeInWords = (type) => TYPES[type] ?? INTEGERS[type] ?? type;

/** Whether samples of this type are whole numbers. */
export const isWhole = (type) => !type.startsWith("float");

/**
 * A file on view. The service keeps it for some minutes, and gets it again if it no longer has it.
 *
 * about: what the service says about the page on view. page: its number.
 */
export class Source {
  constructor(file) {
    Object.assign(this, { file, view: undefined, about: null, page: 1 });
  }

  /** Opens a page, and returns it drawn small: a bitmap. points: black and white, numbers or "auto". */
  async open(page, points, signal) {
    const { bitmap, about } = await this.render({ page, side: OVERVIEW, ...points }, signal);
    Object.assign(this, { about, page });
    return bitmap;
  }

  /** The page on view, drawn small with other points: a bitmap. */
  async overview(points, signal) {
    return (await this.render({ page: this.page, side: OVERVIEW, ...points }, signal)).bitmap;
  }

  /** A part of the page: a bitmap. reduction: what both sides are divided by. parameters: others of the route. */
  async part({ left, top, width, height }, reduction, parameters, signal) {
    const crop = [left, top, width, height].join(",");
    return (await this.render({ page: this.page, crop, reduction, ...parameters }, signal)).bitmap;
  }

  async render(parameters, signal) {
    const { blob, about } = await this.ask(service.preview, parameters, signal);
    this.view = about.view ?? undefined;
    return { bitmap: await createImageBitmap(blob), about };
  }

  /** The service's estimate of the noise of the page on view. */
  estimate(signal) {
    return this.ask(service.estimate, { page: this.page }, signal);
  }

  /** Asks about the view, or with the file if the service does not keep it. */
  async ask(route, parameters, signal) {
    const { view } = this;
    if (view) {
      try {
        return await route(undefined, { ...parameters, view }, signal);
      } catch (error) {
        if (error.status !== GONE) throw error;
        if (this.view === view) this.view = undefined;
      }
    }
    return route(this.file, parameters, signal);
  }
}

/**
 * A large file as the browser decodes it, drawn small, to be shown while the service reads it: its size, and a bitmap.
 * Null for files that the service reads at once, and for those that the browser cannot show as they are.
 */
export async function glimpse(file) {
  if (file.size < SLOW || !(await hasOnly8Bits(file))) return null;
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    const scale = Math.min(1, OVERVIEW / Math.max(width, height));
    const options = { resizeWidth: Math.ceil(width * scale), resizeHeight: Math.ceil(height * scale), resizeQuality: "medium" };
    return { pixels: { width, height }, overview: await createImageBitmap(image, options) };
  } catch {
    // The service may be able to read it.
    return null;
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** Whether all samples of a file have 8 bits, as those that the browser shows have. */
async function hasOnly8Bits(file) {
  const bytes = new Uint8Array(await file.slice(0, PNG_DEPTH + 1).arrayBuffer());
  const start = String.fromCharCode(...bytes);
  return start.startsWith(PNG) ? bytes[PNG_DEPTH] <= 8 : OF_8_BITS.test(start);
}
