// View of the image: zoom, pan, and the line between before and after. Lengths are in pixels of the screen.

import { TILE } from "./preview.js";

const MAX_ZOOM = 16;
// Pixels that an arrow key moves the image.
const KEY_STEP = 64;

/** A scale at which every tile is a whole number of screen pixels wide, so that no seams show. */
function snapped(scale) {
  return Math.max(1, Math.floor(scale * TILE + 1e-6)) / TILE;
}

/**
 * Shows the tiles, and the noisy image where there is no tile yet.
 *
 * elements: viewport, canvas, split (a range input) and handle. onMove(): another part is visible. onTurn(by): the
 * page so many pages further is to be shown.
 */
export class View {
  constructor(elements, onMove, onTurn) {
    Object.assign(this, elements, { onMove, onTurn });
    this.context = this.canvas.getContext("2d");
    this.image = null;
    this.requested = this.scale = 1;
    this.x = this.y = 0;
    this.fitted = true;
    this.pointers = new Map();
    this.listen();
  }

  /**
   * image: its size (pixels) and a small bitmap of it (overview), or null. tiles: of the preview.
   *
   * An image of the same size as the one before, such as another page, is shown at the same place if `stay`.
   */
  show(image, tiles, stay = false) {
    const { width, height } = this.image?.pixels ?? {};
    const same = stay && image && width === image.pixels.width && height === image.pixels.height;
    this.image = image;
    this.tiles = tiles;
    if (same) this.place(this.x, this.y);
    else if (image) this.fit();
    else this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** look: the options of mix. */
  setLook(look) {
    this.look = look;
    this.draw();
  }

  // Position and scale.

  get fitScale() {
    const { width, height } = this.image.pixels;
    const whole = Math.min(this.canvas.width / width, this.canvas.height / height);
    return snapped(Math.min(whole, Math.max(1, Math.floor(devicePixelRatio))));
  }

  /** How often the image can be halved and still has one pixel for each pixel of the screen. */
  get level() {
    return Math.max(0, Math.floor(Math.log2(1 / this.scale)));
  }

  /** The visible part, in pixels of the image. */
  get visible() {
    const { width, height } = this.image.pixels;
    return {
      left: Math.max(0, -this.x / this.scale),
      top: Math.max(0, -this.y / this.scale),
      right: Math.min(width, (this.canvas.width - this.x) / this.scale),
      bottom: Math.min(height, (this.canvas.height - this.y) / this.scale),
    };
  }

  fit() {
    this.requested = this.scale = this.fitScale;
    this.fitted = true;
    this.place(0, 0);
  }

  /** Zooms around the point (x, y) on the screen, by default around its middle. */
  zoom(scale, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const old = this.scale;
    // Without the exact request, many small steps would be rounded away.
    this.requested = Math.min(Math.max(scale, Math.min(this.fitScale, 1)), MAX_ZOOM);
    this.scale = snapped(this.requested);
    this.fitted = this.scale === this.fitScale;
    const ratio = this.scale / old;
    this.place(x - (x - this.x) * ratio, y - (y - this.y) * ratio);
  }

  /** Zooms to the next power of two above or below. */
  step(up) {
    const power = Math.log2(this.scale);
    this.zoom(2 ** (up ? Math.floor(power + 1.001) : Math.ceil(power - 1.001)));
  }

  /** Switches between the actual size and the fitted one. */
  toggle(x, y) {
    if (this.scale === 1 && !this.fitted) this.fit();
    else this.zoom(1, x, y);
  }

  /** Moves the image's corner to (x, y). The image stays in sight. If it is smaller than the view, it is centred. */
  place(x, y) {
    const { width, height } = this.image.pixels;
    const clamped = (at, room) => Math.round(room > 0 ? room / 2 : Math.min(0, Math.max(room, at)));
    this.x = clamped(x, this.canvas.width - width * this.scale);
    this.y = clamped(y, this.canvas.height - height * this.scale);
    this.viewport.classList.toggle("fitted", !this.canPan);
    this.draw();
    this.onMove();
  }

  get canPan() {
    const { width, height } = this.image.pixels;
    return width * this.scale > this.canvas.width || height * this.scale > this.canvas.height;
  }

  /** Moves the line between before and after. percent: of the width. */
  setSplit(percent) {
    this.split.value = percent;
    this.splitMoved();
  }

  splitMoved() {
    this.handle.parentElement.style.setProperty("--split", `${this.split.value}%`);
    this.draw();
  }

  // Drawing.

  draw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      if (this.image) this.drawNow();
    });
  }

  drawNow() {
    const { context, canvas, look } = this;
    const line = look.removed ? 0 : Math.round((canvas.width * this.split.value) / 100);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = this.scale < 2 && this.scale !== 1;
    context.imageSmoothingQuality = "high";
    this.drawSide(0, line, (tile) => tile.before);
    this.drawSide(line, canvas.width, (tile) => tile.after(look));
  }

  drawSide(from, to, canvasOf) {
    const { context, canvas, scale, x, y } = this;
    const { pixels, overview } = this.image;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, canvas.height);
    context.clip();
    // Without a tile, the removed noise is not known.
    if (!this.look.removed) context.drawImage(overview, x, y, pixels.width * scale, pixels.height * scale);
    for (const tile of this.tiles.values()) {
      const [left, top] = [x + tile.left * scale, y + tile.top * scale];
      const [wide, high] = [tile.width * scale, tile.height * scale];
      if (left + wide <= from || left >= to || top + high <= 0 || top >= canvas.height) continue;
      // The overview would show through transparent parts.
      context.clearRect(left, top, wide, high);
      const reduction = 2 ** tile.level;
      const [width, height] = [tile.width / reduction, tile.height / reduction];
      context.drawImage(canvasOf(tile), 0, 0, width, height, left, top, wide, high);
    }
    context.restore();
  }

  // Input.

  listen() {
    const { viewport, split, handle } = this;
    new ResizeObserver(() => this.resize()).observe(viewport);
    split.addEventListener("input", () => this.splitMoved());
    viewport.addEventListener("keydown", (event) => this.key(event));
    viewport.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    viewport.addEventListener("dblclick", (event) => this.image && this.toggle(...this.at(event)));
    for (const element of [viewport, handle]) {
      element.addEventListener("pointerdown", (event) => this.down(event, element === handle));
      element.addEventListener("pointermove", (event) => this.drag(event));
      element.addEventListener("pointerup", (event) => this.pointers.delete(event.pointerId));
      element.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    }
  }

  resize() {
    const { viewport, canvas } = this;
    const ratio = devicePixelRatio;
    const [width, height] = [viewport.clientWidth, viewport.clientHeight].map((side) => Math.round(side * ratio));
    if (!width || !height || (width === canvas.width && height === canvas.height)) return;
    const [dx, dy] = [(width - canvas.width) / 2, (height - canvas.height) / 2];
    Object.assign(canvas, { width, height });
    if (!this.image) return;
    if (this.fitted) this.fit();
    else this.place(this.x + dx, this.y + dy);
    // Setting its size clears a canvas.
    this.drawNow();
  }

  /** The position of an event, in pixels of the canvas. */
  at({ clientX, clientY }) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [(clientX - left) * devicePixelRatio, (clientY - top) * devicePixelRatio];
  }

  key(event) {
    if (!this.image || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const [dx, dy] = moves[event.key] ?? [];
    if (dx !== undefined) this.place(this.x + dx * KEY_STEP, this.y + dy * KEY_STEP);
    else if (event.key === "+" || event.key === "=") this.step(true);
    else if (event.key === "-") this.step(false);
    else if (event.key === "0") this.fit();
    else if (event.key === "1") this.zoom(1);
    else if (event.key === "<" || event.key === "PageUp") this.onTurn(-1);
    else if (event.key === ">" || event.key === "PageDown") this.onTurn(1);
    else return;
    event.preventDefault();
  }

  wheel(event) {
    if (!this.image) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    // Browsers report a pinch on a trackpad as a wheel with Ctrl, in smaller steps.
    const step = event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002);
    this.zoom(this.requested * Math.exp(-step), ...this.at(event));
  }

  /** One pointer moves the image, or the line if it starts there or the whole image is visible. Two pointers zoom. */
  down(event, onHandle) {
    if (!this.image || event.button) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    if (this.pointers.size === 1) this.movesSplit = onHandle || (!this.canPan && !this.look.removed);
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.at(event);
    this.pointers.set(event.pointerId, now);
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, now);
    else if (this.movesSplit) this.setSplit((now[0] / this.canvas.width) * 100);
    else this.place(this.x + now[0] - before[0], this.y + now[1] - before[1]);
  }

  pinch(id, before, now) {
    // When one pointer is lifted, the other one moves the image.
    this.movesSplit = false;
    const [, other] = [...this.pointers].find(([key]) => key !== id);
    const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const scale = this.requested * (distance(now) / Math.max(distance(before), 1));
    this.zoom(scale, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
}
