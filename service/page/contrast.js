// Contrast of the view: the black and the white point, on a histogram. Saved images are not affected.

import { figure } from "./plot.js";
import { isWhole } from "./source.js";

const SVG = "http://www.w3.org/2000/svg";
// Size of the histogram's drawing, in its own units.
const WIDTH = 256;
const HEIGHT = 48;
// Steps of a handle for samples that are not whole numbers.
const STEPS = 500;
// Milliseconds without a move of a handle before the image is rendered anew.
const REST = 100;

/** Points that the service chooses. */
export const AUTO = { black: "auto", white: "auto" };

/**
 * The histogram with its two handles.
 *
 * elements: plot (where the histogram is drawn), black and white (range inputs), auto (a button), words (an output).
 * onChange(): the points have changed, and no handle moves.
 */
export class Contrast {
  constructor(elements, onChange) {
    Object.assign(this, elements, { onChange, points: null });
    for (const name of ["black", "white"]) this[name].addEventListener("input", () => this.moved(name));
    this.auto.addEventListener("click", () => this.setPoints(this.automatic));
  }

  /** Forgets the points: the next image has its own. */
  clear() {
    clearTimeout(this.resting);
    this.points = null;
  }

  /** Shows the histogram of a page. about: what the service says about it. Points that were set stay. */
  show({ type, histogram, ends, auto, black, white }) {
    this.automatic = { black: auto[0], white: auto[1] };
    this.points ??= { black, white };
    this.low = Math.min(ends[0], auto[0], this.points.black);
    this.high = Math.max(ends[1], auto[1], this.points.white);
    this.step = isWhole(type) ? Math.max(1, Math.round((this.high - this.low) / 4096)) : (this.high - this.low) / STEPS;
    for (const name of ["black", "white"]) Object.assign(this[name], { min: this.low, max: this.high, step: this.step });
    this.plot.replaceChildren(this.draw(histogram, ends));
    this.place();
  }

  setPoints(points) {
    this.points = points;
    this.place();
    clearTimeout(this.resting);
    this.resting = setTimeout(this.onChange, REST);
  }

  /** A handle was moved: it stops before the other one. */
  moved(name) {
    const { black, white } = this.points;
    const value = this[name].valueAsNumber;
    if (name === "black") this.setPoints({ black: Math.min(value, white - this.step), white });
    else this.setPoints({ black, white: Math.max(value, black + this.step) });
  }

  /** Places the handles, and says where they are. */
  place() {
    for (const name of ["black", "white"]) {
      const value = this.points[name];
      this[name].value = value;
      this[name].setAttribute("aria-valuetext", figure(value));
      const share = (value - this.low) / (this.high - this.low);
      this.plot.style.setProperty(`--${name}`, `${Math.min(1, Math.max(0, share)) * 100}%`);
    }
    const isAuto = ["black", "white"].every((name) => this.points[name] === this.automatic[name]);
    this.auto.setAttribute("aria-pressed", isAuto);
    this.words.value = `${figure(this.points.black)} to ${figure(this.points.white)}`;
  }

  /** The counts as an area. They are drawn by their logarithms, so that small ones show too. */
  draw(counts, [first, last]) {
    const top = Math.log1p(Math.max(...counts));
    const across = (value) => ((value - this.low) / (this.high - this.low)) * WIDTH;
    const width = (across(last) - across(first)) / counts.length;
    const columns = counts.map((count, i) => {
      const x = across(first) + i * width;
      const y = HEIGHT * (1 - Math.log1p(count) / (top || 1));
      return `${x.toFixed(2)},${y.toFixed(2)} ${(x + width).toFixed(2)},${y.toFixed(2)}`;
    });
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Histogram of the image, from ${figure(first)} to ${figure(last)}`);
    const area = document.createElementNS(SVG, "polygon");
    const ends = [across(first), across(last)].map((x) => `${x.toFixed(2)},${HEIGHT}`);
    area.setAttribute("points", `${ends[0]} ${columns.join(" ")} ${ends[1]}`);
    svg.append(area);
    return svg;
  }
}
