// The picture on the screen: zoom, pan, the line between before and after. All in the screen's own pixels.

import { SIDE } from "./preview.js";

const MOST_ZOOM = 16;
const KEY_STEP = 64;

/** A scale at which every square of the preview is a whole number of the screen's pixels wide: no seams. */
function snapped(scale) {
  return Math.max(1, Math.floor(scale * SIDE + 1e-6)) / SIDE;
}

/**
 * Shows squares, and what there is of the picture where there are none yet.
 *
 * elements: viewport, canvas, split (a range input) and handle. moved(): called when another part is visible.
 */
export class View {
  constructor(elements, moved) {
    Object.assign(this, elements, { moved });
    this.context = this.canvas.getContext("2d");
    this.picture = null;
    this.wish = this.scale = 1;
    this.x = this.y = 0;
    this.fitted = true;
    this.pointers = new Map();
    this.listen();
  }

  /** picture: { pixels, overview }, or null. squares: the preview's. */
  show(picture, squares) {
    this.picture = picture;
    this.squares = squares;
    if (picture) this.fit();
    else this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** look: as mix takes it. */
  setLook(look) {
    this.look = look;
    this.draw();
  }

  // Where it is.

  get fitScale() {
    const { width, height } = this.picture.pixels;
    const whole = Math.min(this.canvas.width / width, this.canvas.height / height);
    return snapped(Math.min(whole, Math.max(1, Math.floor(devicePixelRatio))));
  }

  /** How many times the picture can be halved and still have a pixel for each of the screen's. */
  get level() {
    return Math.max(0, Math.floor(Math.log2(1 / this.scale)));
  }

  /** The visible part, in pixels of the picture. */
  get visible() {
    const { width, height } = this.picture.pixels;
    return {
      left: Math.max(0, -this.x / this.scale),
      top: Math.max(0, -this.y / this.scale),
      right: Math.min(width, (this.canvas.width - this.x) / this.scale),
      bottom: Math.min(height, (this.canvas.height - this.y) / this.scale),
    };
  }

  fit() {
    this.wish = this.scale = this.fitScale;
    this.fitted = true;
    this.place(0, 0);
  }

  /** Zoom so that what lies at (x, y) on the screen stays there: by default what lies in the middle. */
  zoom(scale, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const old = this.scale;
    // Kept as it was wished, or many small steps would come to nothing.
    this.wish = Math.min(Math.max(scale, Math.min(this.fitScale, 1)), MOST_ZOOM);
    this.scale = snapped(this.wish);
    this.fitted = this.scale === this.fitScale;
    const ratio = this.scale / old;
    this.place(x - (x - this.x) * ratio, y - (y - this.y) * ratio);
  }

  /** The next power of two above, or below. */
  step(up) {
    const power = Math.log2(this.scale);
    this.zoom(2 ** (up ? Math.floor(power + 1.001) : Math.ceil(power - 1.001)));
  }

  /** Pixel for pixel, and back. */
  toggle(x, y) {
    if (this.scale === 1 && !this.fitted) this.fit();
    else this.zoom(1, x, y);
  }

  /** Put the picture's corner there, as far as it stays in sight; what is smaller than the view lies in its middle. */
  place(x, y) {
    const { width, height } = this.picture.pixels;
    const kept = (at, room) => Math.round(room > 0 ? room / 2 : Math.min(0, Math.max(room, at)));
    this.x = kept(x, this.canvas.width - width * this.scale);
    this.y = kept(y, this.canvas.height - height * this.scale);
    this.viewport.classList.toggle("fitted", !this.canPan);
    this.draw();
    this.moved();
  }

  get canPan() {
    const { width, height } = this.picture.pixels;
    return width * this.scale > this.canvas.width || height * this.scale > this.canvas.height;
  }

  /** The line between before and after, in percent of the width. */
  setSplit(percent) {
    this.split.value = percent;
    this.splitMoved();
  }

  splitMoved() {
    this.handle.parentElement.style.setProperty("--split", `${this.split.value}%`);
    this.draw();
  }

  // What is drawn.

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      if (this.picture) this.drawNow();
    });
  }

  drawNow() {
    const { context, canvas, look } = this;
    const line = look.removed ? 0 : Math.round((canvas.width * this.split.value) / 100);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = this.scale < 2 && this.scale !== 1;
    context.imageSmoothingQuality = "high";
    this.drawSide(0, line, (square) => square.before);
    this.drawSide(line, canvas.width, (square) => square.after(look));
  }

  drawSide(from, to, image) {
    const { context, canvas, scale, x, y } = this;
    const { pixels, overview } = this.picture;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, canvas.height);
    context.clip();
    // Of what is removed nothing is known yet where there is no square.
    if (!this.look.removed) context.drawImage(overview, x, y, pixels.width * scale, pixels.height * scale);
    for (const square of this.squares.values()) {
      const [left, top] = [x + square.left * scale, y + square.top * scale];
      const [wide, high] = [square.width * scale, square.height * scale];
      if (left + wide <= from || left >= to || top + high <= 0 || top >= canvas.height) continue;
      // What lies under a picture's transparent parts would shine through.
      context.clearRect(left, top, wide, high);
      const reduction = 2 ** square.level;
      const [width, height] = [square.width / reduction, square.height / reduction];
      context.drawImage(image(square), 0, 0, width, height, left, top, wide, high);
    }
    context.restore();
  }

  // What moves it.

  listen() {
    const { viewport, split, handle } = this;
    new ResizeObserver(() => this.resize()).observe(viewport);
    split.addEventListener("input", () => this.splitMoved());
    viewport.addEventListener("keydown", (event) => this.key(event));
    viewport.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    viewport.addEventListener("dblclick", (event) => this.picture && this.toggle(...this.at(event)));
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
    if (!this.picture) return;
    if (this.fitted) this.fit();
    else this.place(this.x + dx, this.y + dy);
    // A canvas whose size is set is blank until it is drawn.
    this.drawNow();
  }

  /** Where an event is, in the canvas's pixels. */
  at({ clientX, clientY }) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [(clientX - left) * devicePixelRatio, (clientY - top) * devicePixelRatio];
  }

  key(event) {
    if (!this.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const [dx, dy] = moves[event.key] ?? [];
    if (dx !== undefined) this.place(this.x + dx * KEY_STEP, this.y + dy * KEY_STEP);
    else if (event.key === "+" || event.key === "=") this.step(true);
    else if (event.key === "-") this.step(false);
    else if (event.key === "0") this.fit();
    else if (event.key === "1") this.zoom(1);
    else return;
    event.preventDefault();
  }

  wheel(event) {
    if (!this.picture) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    // Pinching a trackpad comes as a wheel with Ctrl, in smaller steps.
    const step = event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002);
    this.zoom(this.wish * Math.exp(-step), ...this.at(event));
  }

  /** One pointer moves the line or the picture; where the whole picture is seen, the line. Two zoom. */
  down(event, onHandle) {
    if (!this.picture || event.button) return;
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
    // When one is lifted, the other goes on with the picture.
    this.movesSplit = false;
    const [, other] = [...this.pointers].find(([key]) => key !== id);
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const scale = this.wish * (apart(now) / Math.max(apart(before), 1));
    this.zoom(scale, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
}
