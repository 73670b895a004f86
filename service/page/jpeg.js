// Quality of a JPEG file, estimated from its quantisation tables.

// Bytes at the start of a file in which its tables are looked for. Metadata come before them.
const START = 1_000_000;
const MARKER = 0xff;
const TABLES = 0xdb;
const SCAN = 0xda;
// Markers without a segment: the start of the image, and temporary ones.
const ALONE = [0xd8, 0x01];
// The standard table of quality 50 for luma, row by row. Source: ITU-T T.81, annex K.1.
const LUMA = [
  16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87,
  80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92,
  95, 98, 112, 100, 103, 99,
];

/** The sum of the table for luma that libjpeg makes for a quality. Source: libjpeg, `jpeg_quality_scaling`. */
function sumFor(quality) {
  const scale = quality < 50 ? Math.floor(5000 / quality) : 200 - 2 * quality;
  return sumOf(LUMA.map((each) => Math.min(255, Math.max(1, Math.floor((each * scale + 50) / 100)))));
}

const sumOf = (numbers) => numbers.reduce((sum, each) => sum + each, 0);

/**
 * The quality, 1 to 100, whose standard table is nearest to that of the file. Undefined if the file has none.
 *
 * Programs with tables of their own, such as Photoshop, have no quality on this scale.
 */
export async function jpegQuality(file) {
  const table = lumaTable(new Uint8Array(await file.slice(0, START).arrayBuffer()));
  if (!table) return undefined;
  const sum = sumOf(table);
  const distances = Array.from({ length: 100 }, (_, index) => Math.abs(sumFor(index + 1) - sum));
  return 1 + distances.indexOf(Math.min(...distances));
}

/** The first table of a file, in any order. */
function lumaTable(bytes) {
  for (let at = 2; at + 4 < bytes.length && bytes[at] === MARKER; ) {
    const marker = bytes[at + 1];
    if (marker === MARKER || ALONE.includes(marker)) {
      at += marker === MARKER ? 1 : 2;
      continue;
    }
    const body = at + 4;
    if (marker === SCAN) return null;
    // A table begins with its number, and whether its entries have 8 or 16 bits.
    if (marker === TABLES && (bytes[body] & 15) === 0) return entriesOf(bytes, body + 1, bytes[body] >> 4);
    at += 2 + bytes[at + 2] * 256 + bytes[at + 3];
  }
  return null;
}

function entriesOf(bytes, at, wide) {
  const size = wide ? 2 : 1;
  if (at + 64 * size > bytes.length) return null;
  return Array.from({ length: 64 }, (_, index) => {
    const place = at + index * size;
    return wide ? bytes[place] * 256 + bytes[place + 1] : bytes[place];
  });
}
