// Zip writer: puts files into a zip without compressing them, because images are compressed already.
//
// Source: APPNOTE.TXT of PKWARE, version 6.3.10, sections 4.3 and 4.4.

// Names are in UTF-8.
const UTF8 = 0x800;
// Version 2.0 is needed. Made on Unix, whose file modes the directory keeps.
const NEEDED = 20;
const MADE_BY = (3 << 8) | NEEDED;
const MODE = 0o100644;
const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** CRC-32 of a blob, which is read in pieces. */
async function checksum(blob) {
  const reader = blob.stream().getReader();
  let crc = 0xffffffff;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return (crc ^ 0xffffffff) >>> 0;
    for (let i = 0; i < value.length; i += 1) crc = CRC_TABLE[(crc ^ value[i]) & 0xff] ^ (crc >>> 8);
  }
}

/** Bytes of these numbers, little-endian. fields: pairs of a number and its size, 2 or 4 bytes. */
function bytesOf(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [, size]) => sum + size, 0)));
  let at = 0;
  for (const [value, size] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return view.buffer;
}

/** A date as MS-DOS has it: [time, date]. A zip cannot hold years before 1980. */
function dosTime(date) {
  return [
    (date.getHours() << 11) | (date.getMinutes() << 5) | (date.getSeconds() >> 1),
    (Math.max(0, date.getFullYear() - 1980) << 9) | ((date.getMonth() + 1) << 5) | date.getDate(),
  ];
}

/** A zip that grows. It has no Zip64: keep it below 4 GiB and 65,535 files. */
export class Zip {
  parts = [];
  directory = [];
  names = new Set();
  size = 0;

  get count() {
    return this.directory.length / 2;
  }

  /** Adds a file. If the zip has its name already, it gets a number. */
  async add(name, blob) {
    const unique = this.unused(name);
    const encoded = new TextEncoder().encode(unique);
    const crc = await checksum(blob);
    const [time, date] = dosTime(new Date());
    // Flags, method (0: stored), time, date, checksum, sizes packed and unpacked, lengths of the name and of extras.
    const shared = [
      [UTF8, 2], [0, 2], [time, 2], [date, 2], [crc, 4], [blob.size, 4], [blob.size, 4], [encoded.length, 2], [0, 2],
    ];
    const header = bytesOf([LOCAL, 4], [NEEDED, 2], ...shared);
    // Length of the comment, disk, inner attributes, outer attributes, where the file begins.
    const rest = [[0, 2], [0, 2], [0, 2], [MODE * 0x10000, 4], [this.size, 4]];
    this.directory.push(bytesOf([CENTRAL, 4], [MADE_BY, 2], [NEEDED, 2], ...shared, ...rest), encoded);
    this.parts.push(header, encoded, blob);
    this.size += header.byteLength + encoded.length + blob.size;
  }

  /** The name with a number that makes it differ from all others. Some systems do not tell "A" from "a". */
  unused(name) {
    const [, stem, suffix] = name.match(/^(.*?)(\.[^./]*)?$/s);
    let unique = name;
    for (let number = 2; this.names.has(unique.toLowerCase()); number += 1) unique = `${stem}-${number}${suffix ?? ""}`;
    this.names.add(unique.toLowerCase());
    return unique;
  }

  /** The whole zip. */
  blob() {
    const files = this.count;
    const length = this.directory.reduce((sum, part) => sum + part.byteLength, 0);
    const end = bytesOf([END, 4], [0, 2], [0, 2], [files, 2], [files, 2], [length, 4], [this.size, 4], [0, 2]);
    return new Blob([...this.parts, ...this.directory, end], { type: "application/zip" });
  }
}
