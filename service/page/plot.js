// Plot of the noise against brightness, as SVG.

const SVG = "http://www.w3.org/2000/svg";
// Lengths in CSS pixels. The margins hold the labels.
const WIDTH = 272;
const HEIGHT = 180;
const LEFT = 48;
const RIGHT = 20;
const TOP = 22;
const BOTTOM = 38;
// The most steps on an axis that keep the labels apart.
const STEPS_ACROSS = 4;
const STEPS_UP = 5;
// Lines that a curve is drawn with.
const CURVE_LINES = 64;
const COLOURS = ["red", "green", "blue"];

/** A number for people: three significant digits. */
export function figure(value) {
  if (value && Math.abs(value) < 1e-4) return value.toExponential(1);
  const digits = Math.max(3, Math.floor(Math.log10(Math.abs(value) || 1)) + 1);
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/**
 * A plot of an estimate with levels. It has a label that says the same in words.
 *
 * levels: with brightness and sigma, both on the scale of 0 to 255. white, range, laws: in the file's units, which the
 * axes have too.
 */
export function plot({ levels, white, range, laws }) {
  const points = levels.map(({ brightness, sigma }) => [(brightness / 255) * white, (sigma / 255) * white]);
  const [low, high] = rangeOf([...range, ...points.map(([x]) => x)]);
  const curves = laws.map((law) => curveOf(law, low, high));
  const top = 1.08 * Math.max(...[...points, ...curves.flat()].map(([, y]) => y));
  const across = (x) => LEFT + ((x - low) / (high - low)) * (WIDTH - LEFT - RIGHT);
  const up = (y) => HEIGHT - BOTTOM - (y / top) * (HEIGHT - TOP - BOTTOM);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": inWords(points, laws) });
  svg.append(...axes(across, up, [low, high], top));
  svg.append(
    ...curves.map((curve, i) => {
      const places = curve.map(([x, y]) => `${across(x).toFixed(1)},${up(y).toFixed(1)}`);
      return element("polyline", { points: places.join(" "), class: laws.length > 1 ? COLOURS[i] : "law" });
    }),
    ...points.map(([x, y]) => {
      const circle = element("circle", { cx: across(x), cy: up(y), r: 2.5 });
      circle.append(element("title", {}, `${figure(y)} at ${figure(x)}`));
      return circle;
    })
  );
  return svg;
}

/** What is below the plot: the unit, the level in it and as a share of the image's range, and what the lines are. */
export function caption({ white, range, laws, sigma_in_units: level, sigma_of_range: share }) {
  const percent = figure(Number((100 * share).toPrecision(2)));
  const [low, high] = range.map(figure);
  const unit = `Standard deviation, in the file's units, where white is ${figure(white)}.`;
  const mean = `On average ${figure(level)}, ${percent}\u00a0% of the image's range, which is ${low} to ${high}.`;
  const lines = laws.length > 1 ? "Lines: photon noise in red, green and blue." : "Line: photon noise.";
  return [unit, mean, ...(laws.length ? [lines] : [])].join(" ");
}

/** The ends of the values, apart from each other. */
function rangeOf(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return high > low ? [low, high] : [low - 1, high + 1];
}

/** Points of a law's curve: variance = gain * (x - pedestal) + read_noise^2, and below the pedestal read_noise^2. */
function curveOf({ gain, pedestal, read_noise: readNoise }, low, high) {
  const sigma = (x) => Math.sqrt(Math.max(0, gain * (x - pedestal)) + readNoise ** 2);
  return Array.from({ length: CURVE_LINES + 1 }, (_, i) => low + (i / CURVE_LINES) * (high - low)).map((x) => [x, sigma(x)]);
}

function inWords(points, laws) {
  const measured = points.map(([x, y]) => `${figure(y)} at ${figure(x)}`).join(", ");
  const fitted = laws.map(({ gain, pedestal, read_noise: readNoise }, i) => {
    const channel = laws.length > 1 ? ` of ${COLOURS[i]}` : "";
    return ` Photon noise${channel}: gain ${figure(gain)}, pedestal ${figure(pedestal)}, read noise ${figure(readNoise)}.`;
  });
  return `Noise by brightness, in the file's units: ${measured}.${fitted.join("")}`;
}

/** The axes with their ticks, labels and names. */
function axes(across, up, [low, high], top) {
  const bottom = HEIGHT - BOTTOM;
  return [
    ...ticks(0, top, STEPS_UP).flatMap((y) => [
      element("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: up(y), y2: up(y) }),
      element("text", { x: LEFT - 6, y: up(y) + 4, class: "end" }, tickLabel(y)),
    ]),
    ...ticks(low, high, STEPS_ACROSS).flatMap((x) => [
      element("line", { x1: across(x), x2: across(x), y1: bottom, y2: bottom + 4, class: "tick" }),
      element("text", { x: across(x), y: bottom + 17, class: "middle" }, tickLabel(x)),
    ]),
    element("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: bottom, y2: bottom, class: "tick" }),
    element("text", { x: 0, y: 11 }, "Noise"),
    element("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, class: "end" }, "Brightness"),
  ];
}

/** Round values between two ends, at most so many steps apart: a step is 1, 2 or 5 times a power of ten. */
export function ticks(low, high, steps) {
  const rough = (high - low) / steps;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= rough * (1 - 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function tickLabel(value) {
  if (value && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential();
  return value.toLocaleString("en", { maximumSignificantDigits: 8 });
}

function element(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
