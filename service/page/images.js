// Image files on the page, and their thumbnails.

// Side of a thumbnail, in pixels.
const THUMBNAIL = 128;

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
