// Kinds of files: format, transparency and pages, as their headers tell. Decides which formats can hold an image.

import { jpegQuality } from "./jpeg.js";

// How the files of each writable format begin. GIF and BMP are here because browsers decode them.
const SIGNATURES = [
  ["jpeg", /^\xff\xd8\xff/],
  ["png", /^\x89PNG/],
  ["webp", /^RIFF.{4}WEBP/s],
  ["gif", /^GIF8/],
  ["bmp", /^BM/],
  ["avif", /^.{4}ftypavi[fs]/s],
  ["tiff", /^(II[*+]\0|MM\0[*+])/],
];
// Files that begin like TIFF, but are only read.
const RAW = /\.(dng|3fr|arw|cr2|dcr|erf|fff|iiq|kdc|mef|mos|nef|nrw|orf|pef|rw2|rwl|sr2|srf|srw)$/i;
// What each format can hold when it is written. frames: of an animation. pages: of any kind.
const HOLDS = {
  jpeg: {},
  png: { transparency: true, frames: true },
  webp: { transparency: true, frames: true },
  avif: { transparency: true, frames: true },
  tiff: { transparency: true, frames: true, pages: true },
};
// Bytes in which the parts of a GIF file that say whether it is animated are looked for.
const GIF_START = 4096;
// Tags and flags of TIFF 6.0, sections 8 and 18.
const NEW_SUBFILE_TYPE = 254;
const EXTRA_SAMPLES = 338;
const REDUCED = 1;

/**
 * What a file is: { format, transparent, several, quality }.
 *
 * format: a format's name, or "" for one that is only read. several: "frames", "pages", or "" for a single image, and
 * where the header does not tell. quality: of a JPEG file, 1 to 100, if it is known.
 */
export async function describe(file) {
  const start = await textOf(file, 0, 32);
  const format = RAW.test(file.name) ? "" : SIGNATURES.find(([, begins]) => begins.test(start))?.[0] ?? "";
  const kind = { format, transparent: false, several: "" };
  if (format === "jpeg") kind.quality = await jpegQuality(file);
  if (format === "png") Object.assign(kind, await describePng(file, start));
  if (format === "webp") Object.assign(kind, describeWebp(start));
  if (format === "gif") kind.several = /NETSCAPE2\.0|ANIMEXTS1\.0/.test(await textOf(file, 0, GIF_START)) ? "frames" : "";
  if (format === "tiff") Object.assign(kind, await describeTiff(file, start));
  return kind;
}

/** Whether a format can hold an image. format: a name, or "same". kind: of `describe`, if it is known. */
export function canHold(format, kind, onePage) {
  if (!kind) return true;
  const holds = HOLDS[format === "same" ? kind.format : format];
  if (!holds || (kind.transparent && !holds.transparency)) return false;
  return onePage || !kind.several || Boolean(holds[kind.several]);
}

/** Whether some pixel of a bitmap is transparent. A small copy suffices. */
export function hasTransparency(bitmap) {
  const side = 256;
  const canvas = new OffscreenCanvas(Math.min(side, bitmap.width), Math.min(side, bitmap.height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) return true;
  return false;
}

const viewOf = async (file, at, size) => new DataView(await file.slice(at, at + size).arrayBuffer());

async function textOf(file, at, size) {
  return String.fromCharCode(...new Uint8Array(await file.slice(at, at + size).arrayBuffer()));
}

/** Source: PNG, third edition, sections 5.3 and 11. */
async function describePng(file, start) {
  const colourType = start.charCodeAt(25);
  const kind = { transparent: colourType === 4 || colourType === 6, several: "" };
  for (let at = 8; at + 8 <= file.size; ) {
    const [size, name] = [(await viewOf(file, at, 4)).getUint32(0), await textOf(file, at + 4, 4)];
    if (name === "IDAT") break;
    if (name === "tRNS") kind.transparent = true;
    if (name === "acTL") kind.several = "frames";
    at += 12 + size;
  }
  return kind;
}

/** Source: RFC 9649, sections 2.7 and 3.4. */
function describeWebp(start) {
  const kind = start.slice(12, 16);
  if (kind === "VP8L") return { transparent: Boolean(start.charCodeAt(24) & 0x10) };
  if (kind !== "VP8X") return {};
  const flags = start.charCodeAt(20);
  return { transparent: Boolean(flags & 0x10), several: flags & 0x02 ? "frames" : "" };
}

/** Source: TIFF 6.0, section 2, and for the sizes of BigTIFF its specification by Adobe's mailing list. */
async function describeTiff(file, start) {
  const little = start[0] === "I";
  const big = start.charCodeAt(little ? 2 : 3) === 43;
  const [countSize, entrySize, offsetSize] = big ? [8, 20, 8] : [2, 12, 4];
  const number = (view, at, size) => {
    if (size === 8) return Number(view.getBigUint64(at, little));
    return size === 4 ? view.getUint32(at, little) : view.getUint16(at, little);
  };
  const kind = { transparent: false, several: "" };
  let pages = 0;
  let at = number(await viewOf(file, big ? 8 : 4, offsetSize), 0, offsetSize);
  // Two pages are enough to know, and some smaller copies may come first.
  for (let left = 8; left && at && at + countSize <= file.size; left -= 1) {
    const count = number(await viewOf(file, at, countSize), 0, countSize);
    const view = await viewOf(file, at + countSize, count * entrySize + offsetSize);
    if (view.byteLength < count * entrySize + offsetSize) break;
    let reduced = false;
    for (let entry = 0; entry < count * entrySize; entry += entrySize) {
      const tag = view.getUint16(entry, little);
      if (tag === NEW_SUBFILE_TYPE) reduced = Boolean(view.getUint32(entry + (big ? 12 : 8), little) & REDUCED);
      if (tag === EXTRA_SAMPLES) kind.transparent = true;
    }
    pages += reduced ? 0 : 1;
    at = number(view, count * entrySize, offsetSize);
  }
  if (pages > 1) kind.several = "pages";
  return kind;
}
