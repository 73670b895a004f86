// Image files on the page, and their thumbnails.

import { describe, hasTransparency } from "./kinds.js";
import { preview } from "./service.js";

// Side of a thumbnail, in pixels.
const THUMBNAIL = 128;
// Formats whose header says whether there is transparency. Of others, the pixels are looked at.
const HEADER_TELLS = ["jpeg", "png", "webp", "tiff"];
// Names of files that browsers do not decode, but the service does.
const FOR_SERVICE =
  /\.(tiff?|hei[cf]|jxl|jp2|j2k|p[pgbna]m|pfm|qoi|exr|fits?|fts|fz|mrcs?|rec|czi|nd2|dng|3fr|arw|cr[23w]|dcr|erf|fff|iiq|kdc|m[eo][fs]|mrw|n[er][fw]|orf|pef|raf|rw[2l]|sr[2fw]|x3f)$/i;
// Statuses of the service for a file that is no image, too large, or of a kind that is not supported.
const BROKEN = [400, 413, 415];

/**
 * A file that was dropped, pasted or chosen.
 *
 * folder: the path of the folder that it came in, with a slash at its end, or "". state: waiting, working, done or
 * failed. detail: a message about it. broken: whether it cannot be opened. drawn: whether the service takes it for a
 * drawing, which it does not denoise. force: whether it is denoised all the same. kind: what `describe` tells, once it
 * is known. seen: whether it has been on view. page: the only page to save, or undefined for all. shown: the page that
 * was on view last. pixels: how many it has, once it is known.
 */
export class ImageFile {
  constructor(file) {
    this.file = file;
    this.folder = file.folder ?? "";
    this.state = "waiting";
    this.detail = "";
    this.broken = this.drawn = this.force = this.seen = false;
    this.kind = null;
    this.page = this.pixels = undefined;
    this.shown = 1;
  }
}

/** What a file is, as `describe` tells, with the transparency of its overview. */
export async function kindOf(file, overview) {
  const kind = await describe(file);
  if (!HEADER_TELLS.includes(kind.format)) kind.transparent = hasTransparency(overview);
  return kind;
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
  return FOR_SERVICE.test(file.name) ? null : createImageBitmap((await preview(file, {})).blob, options);
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
