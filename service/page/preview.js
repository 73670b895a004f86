// Preview: has the visible part of the image denoised, and keeps it in tiles. If most of the image is visible, one tile
// holds all of it: the service denoises it whole, and keeps it for the download.

import { mix } from "./mix.js";

// Side of a tile, in pixels of the image.
export const TILE = 512;
// The key of the tile that holds the whole image.
const WHOLE = "whole";
// Requests at the same time.
const CONCURRENCY = 2;
// Removed noise is amplified by at most MAX_GAIN, to a standard deviation of at most SPREAD of 255, where it is
// visible and not clipped.
const MAX_GAIN = 16;
const SPREAD = 42;
// Pixels that are kept, at 16 bytes each.
const CACHE = 6_000_000;

/** A canvas to read pixels from. On a graphics processor, reading is slow. */
function readable(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  return [canvas, context];
}

function canvasOf(data) {
  const canvas = new OffscreenCanvas(data.width, data.height);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

/**
 * A tile of the image, each side halved `level` times. At most TILE pixels wide and high, and smaller at the border.
 *
 * before, after: canvases. width, height: the part of them to draw, which can end within a pixel.
 */
class Tile {
  constructor(place, level, asked, noisy, clean) {
    Object.assign(this, { ...place, level, asked, clean, noisy });
    this.before = canvasOf(noisy);
    this.shown = new ImageData(noisy.width, noisy.height);
    this.canvas = new OffscreenCanvas(noisy.width, noisy.height);
    this.look = null;
    this.power = power(noisy.data, clean.data);
  }

  /** The denoised tile, mixed for this look. */
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

/** The position of a tile in the image, in pixels. */
function placeOf(key, pixels) {
  if (key === WHOLE) return { left: 0, top: 0, width: pixels.width, height: pixels.height };
  const [column, row] = key.split(" ").map(Number);
  const [left, top] = [column * TILE, row * TILE];
  return { left, top, width: Math.min(TILE, pixels.width - left), height: Math.min(TILE, pixels.height - top) };
}

/** The tiles of one image. onChange(): there is more to show. onError(error): a request failed. */
export class Preview {
  constructor(onChange, onError) {
    this.onChange = onChange;
    this.onError = onError;
    this.tiles = new Map();
    this.running = new Map();
    this.show(null);
  }

  /** Starts with another image, or with none. source: as it is on view. */
  show(source) {
    this.stop();
    this.tiles.clear();
    this.source = source;
    this.visible = [];
    this.paused = false;
  }

  stop() {
    for (const request of this.running.values()) request.abort();
    this.running.clear();
  }

  /**
   * Sends no requests until `resume`, while a download needs the service. Returns a promise: the whole image, if it is
   * being denoised, is done.
   *
   * needsWhole: the download has the same options, so it waits for the whole image and takes it.
   */
  pause(needsWhole) {
    this.paused = true;
    const whole = this.running.get(WHOLE);
    for (const [key, request] of this.running) {
      if (needsWhole && key === WHOLE) continue;
      request.abort();
      this.running.delete(key);
    }
    return needsWhole && whole ? whole.done : Promise.resolve();
  }

  resume() {
    this.paused = false;
    if (this.source) this.fetchNext();
  }

  /** The share of the visible tiles that are ready. */
  get progress() {
    const ready = this.visible.filter((key) => this.isReady(key)).length;
    return this.visible.length ? ready / this.visible.length : 1;
  }

  /** The factor that amplifies the removed noise: a power of two. */
  get gain() {
    const powers = this.visible.map((key) => this.tiles.get(key)?.power ?? 0).filter(Boolean);
    if (!powers.length) return 1;
    const deviation = Math.sqrt(powers.reduce((sum, each) => sum + each, 0) / powers.length);
    return 2 ** Math.max(0, Math.floor(Math.log2(Math.min(SPREAD / deviation, MAX_GAIN))));
  }

  isReady(key) {
    const isFine = (tile) => tile !== undefined && tile.level <= this.level && tile.asked === this.asked;
    return isFine(this.tiles.get(key)) || isFine(this.tiles.get(WHOLE));
  }

  /**
   * Requests the tiles of an area, from its middle outwards. Cancels requests for other tiles, but not one for the
   * whole image.
   *
   * parameters: of the requests to the service. output: "noisy" if it would return the image as it is.
   */
  request({ left, top, right, bottom }, level, parameters) {
    // As text, so that parameters can be compared.
    Object.assign(this, { level, asked: JSON.stringify(parameters) });
    const { width, height } = this.source.about;
    const isMost = 2 * (right - left) * (bottom - top) > width * height;
    this.visible = isMost ? [WHOLE] : this.tilesIn({ left, top, right, bottom });
    for (const [key, request] of this.running) {
      const same = request.asked === this.asked;
      if (same && (key === WHOLE || (request.level === level && this.visible.includes(key)))) continue;
      request.abort();
      this.running.delete(key);
    }
    this.fetchNext();
  }

  /** The keys of the tiles in an area, from its middle outwards. */
  tilesIn({ left, top, right, bottom }) {
    const found = [];
    for (let row = Math.floor(top / TILE); row * TILE < bottom; row++) {
      for (let column = Math.floor(left / TILE); column * TILE < right; column++) {
        const across = (column + 0.5) * TILE - (left + right) / 2;
        const down = (row + 0.5) * TILE - (top + bottom) / 2;
        found.push({ key: `${column} ${row}`, distance: Math.hypot(across, down) });
      }
    }
    return found.sort((a, b) => a.distance - b.distance).map(({ key }) => key);
  }

  fetchNext() {
    const missing = this.visible.filter((key) => !this.isReady(key) && !this.running.has(key));
    while (!this.paused && this.running.size < CONCURRENCY && missing.length) this.fetch(missing.shift());
    this.onChange();
  }

  fetch(key) {
    const request = Object.assign(new AbortController(), { level: this.level, asked: this.asked });
    this.running.set(key, request);
    request.done = this.fetched(key, request);
  }

  async fetched(key, request) {
    try {
      const tile = await this.rendered(key, request);
      if (request.signal.aborted) return;
      this.keep(key, tile);
    } catch (error) {
      if (request.signal.aborted) return;
      this.stop();
      this.visible = [];
      this.onError(error);
    }
    this.running.delete(key);
    this.fetchNext();
  }

  async rendered(key, { level, asked, signal }) {
    const place = placeOf(key, this.source.about);
    const parameters = JSON.parse(asked);
    const bitmap = await this.source.part(place, 2 ** level, parameters, signal);
    const both = parameters.output === "compare";
    const width = both ? bitmap.width / 2 : bitmap.width;
    const { height } = bitmap;
    const [, context] = readable(bitmap.width, height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const [noisy, clean] = [0, both ? width : 0].map((left) => context.getImageData(left, 0, width, height));
    return new Tile(place, level, asked, noisy, clean);
  }

  /** Keeps a tile. If the cache is full, the tiles that were requested first go first. */
  keep(key, tile) {
    if (key === WHOLE) this.keepWhole(tile);
    else {
      this.tiles.delete(key);
      this.tiles.set(key, tile);
    }
    let size = 0;
    for (const kept of this.tiles.values()) size += kept.size;
    for (const [other, kept] of this.tiles) {
      if (size <= CACHE) break;
      if (other === WHOLE || this.visible.includes(other)) continue;
      this.tiles.delete(other);
      size -= kept.size;
    }
  }

  /** Keeps the whole image as the first tile, over which finer ones are drawn. Others are no longer needed. */
  keepWhole(tile) {
    const finer = [...this.tiles].filter(([key, other]) => key !== WHOLE && other.asked === tile.asked && other.level < tile.level);
    this.tiles.clear();
    for (const [key, other] of [[WHOLE, tile], ...finer]) this.tiles.set(key, other);
  }
}

/** The mean square of the removed noise in the green channel, which stands for all. */
function power(noisy, clean) {
  let sum = 0;
  for (let i = 1; i < noisy.length; i += 4) sum += (noisy[i] - clean[i]) ** 2;
  return (4 * sum) / noisy.length;
}
