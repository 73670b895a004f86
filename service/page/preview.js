// The visible part, denoised: cut into squares of the picture, each asked of the service once and kept.

import { mix } from "./mix.js";
import { denoise } from "./service.js";

export const SIDE = 512;
// So much of what lies around is sent along that squares meet without a seam: with the networks that are shipped they
// differ from the picture denoised whole by 0.15 of 255 at most; with 48 pixels by 0.9, with 32 by 5.
const HALO = 64;
const AT_ONCE = 2;
// What is removed is made so many times as strong at most that it is seen, and not so strong that it is clipped.
const MOST_GAIN = 16;
const SPREAD = 42;
// Pixels that are kept, at 16 bytes each.
const MOST = 6_000_000;

/** A canvas that is read back, which is slow from a graphics processor. */
function readable(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  return [canvas, context];
}

function canvasOf(data) {
  const canvas = new OffscreenCanvas(data.width, data.height);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

/**
 * A square of the picture, at most SIDE wide and high, smaller at the border, halved `level` times.
 *
 * before, after: canvases. width, height: of what is drawn of them, which may end within a pixel.
 */
class Square {
  constructor(place, level, model, noisy, clean) {
    Object.assign(this, { ...place, level, model, clean, noisy });
    this.before = canvasOf(noisy);
    this.shown = new ImageData(noisy.width, noisy.height);
    this.canvas = new OffscreenCanvas(noisy.width, noisy.height);
    this.look = null;
    this.power = power(noisy.data, clean.data);
  }

  /** What is seen of it after, mixed as the look says. */
  after(look) {
    if (this.look !== look) {
      mix(this.noisy.data, this.clean.data, this.shown.data, look);
      this.canvas.getContext("2d").putImageData(this.shown, 0, 0);
      this.look = look;
    }
    return this.canvas;
  }

  get size() {
    return this.noisy.width * this.noisy.height;
  }
}

/** Where the square of a column and row lies in a picture, in pixels. */
function placeOf(column, row, pixels) {
  const [left, top] = [column * SIDE, row * SIDE];
  return { left, top, width: Math.min(SIDE, pixels.width - left), height: Math.min(SIDE, pixels.height - top) };
}

/** Squares of one picture by one model. changed(): called when there is more to show; failed(error) when there is not. */
export class Preview {
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.squares = new Map();
    this.running = new Map();
    this.show(null);
  }

  /** Begin with another picture, or with none. */
  show(pixels) {
    this.stop();
    this.squares.clear();
    this.pixels = pixels;
    this.wanted = [];
  }

  stop() {
    for (const request of this.running.values()) request.abort();
    this.running.clear();
    this.queue = [];
  }

  /** How much of what is wanted is there, 0 to 1. */
  get progress() {
    const there = this.wanted.filter((key) => this.isThere(key)).length;
    return this.wanted.length ? there / this.wanted.length : 1;
  }

  /** How many times as strong what is removed is shown: a power of two. */
  get gain() {
    const powers = this.wanted.map((key) => this.squares.get(key)?.power ?? 0).filter(Boolean);
    if (!powers.length) return 1;
    const deviation = Math.sqrt(powers.reduce((sum, each) => sum + each, 0) / powers.length);
    return 2 ** Math.max(0, Math.floor(Math.log2(Math.min(SPREAD / deviation, MOST_GAIN))));
  }

  isThere(key) {
    const square = this.squares.get(key);
    return square !== undefined && square.level <= this.level && square.model === this.model;
  }

  /** Have what lies within left..right, top..bottom, from the middle outwards; requests for other parts are dropped. */
  want({ left, top, right, bottom }, level, model) {
    Object.assign(this, { level, model });
    const found = [];
    for (let row = Math.floor(top / SIDE); row * SIDE < bottom; row++) {
      for (let column = Math.floor(left / SIDE); column * SIDE < right; column++) {
        const across = (column + 0.5) * SIDE - (left + right) / 2;
        const down = (row + 0.5) * SIDE - (top + bottom) / 2;
        found.push({ key: `${column} ${row}`, distance: Math.hypot(across, down) });
      }
    }
    this.wanted = found.sort((a, b) => a.distance - b.distance).map(({ key }) => key);
    for (const [key, request] of this.running) {
      const same = request.level === level && request.model === model;
      if (same && this.wanted.includes(key)) continue;
      request.abort();
      this.running.delete(key);
    }
    this.queue = this.wanted.filter((key) => !this.isThere(key) && !this.running.has(key));
    this.pump();
  }

  pump() {
    while (this.running.size < AT_ONCE && this.queue.length) this.fetch(this.queue.shift());
    this.changed();
  }

  async fetch(key) {
    const request = Object.assign(new AbortController(), { level: this.level, model: this.model });
    this.running.set(key, request);
    try {
      const square = await this.make(key, request);
      if (request.signal.aborted) return;
      this.keep(key, square);
    } catch (error) {
      if (request.signal.aborted) return;
      this.stop();
      this.wanted = [];
      this.failed(error);
    }
    this.running.delete(key);
    this.pump();
  }

  async make(key, { level, model, signal }) {
    const [column, row] = key.split(" ").map(Number);
    const place = placeOf(column, row, this.pixels);
    const left = Math.max(0, place.left - HALO);
    const top = Math.max(0, place.top - HALO);
    const right = Math.min(this.pixels.width, place.left + place.width + HALO);
    const bottom = Math.min(this.pixels.height, place.top + place.height + HALO);
    const [cut, context] = readable(right - left, bottom - top);
    context.drawImage(this.pixels, -left, -top);
    const answer = await denoise(await cut.convertToBlob(), { model }, signal);
    const clean = await createImageBitmap(answer.picture);
    const inner = { ...place, left: place.left - left, top: place.top - top };
    const [noisyData, cleanData] = [cut, clean].map((image) => reduced(image, inner, level));
    clean.close();
    return new Square(place, level, model, noisyData, cleanData);
  }

  /** What was wanted longest ago goes first, if it is too much. */
  keep(key, square) {
    this.squares.delete(key);
    this.squares.set(key, square);
    let size = 0;
    for (const kept of this.squares.values()) size += kept.size;
    for (const [other, kept] of this.squares) {
      if (size <= MOST) break;
      if (this.wanted.includes(other)) continue;
      this.squares.delete(other);
      size -= kept.size;
    }
  }
}

/** The mean square of what is removed, of green, which stands for all. */
function power(noisy, clean) {
  let sum = 0;
  for (let i = 1; i < noisy.length; i += 4) sum += (noisy[i] - clean[i]) ** 2;
  return (4 * sum) / noisy.length;
}

/** A part of an image as pixels, each side halved `level` times. */
function reduced(image, { left, top, width, height }, level) {
  const [wide, high] = [width / 2 ** level, height / 2 ** level];
  const [, context] = readable(Math.ceil(wide), Math.ceil(high));
  context.drawImage(image, left, top, width, height, 0, 0, wide, high);
  return context.getImageData(0, 0, Math.ceil(wide), Math.ceil(high));
}
