/** Zip archives without compression, which does little for audio. */

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** @param {Uint8Array[]} parts */
function checksum(parts) {
  let value = 0xffffffff;
  for (const part of parts) for (const byte of part) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

/**
 * Little-endian numbers, each with its size in bytes.
 * @param {...[number, number]} values
 */
function numbers(...values) {
  const bytes = values.flatMap(([value, size]) => Array.from({ length: size }, (_, k) => (value / 256 ** k) & 255));
  return Uint8Array.from(bytes);
}

/**
 * @param {{name: string, parts: Uint8Array<ArrayBuffer>[]}[]} files
 * @returns {Blob}
 */
export function zipFile(files) {
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const content = [];
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const directory = [];
  const length = (/** @type {Uint8Array[]} */ parts) => parts.reduce((sum, part) => sum + part.length, 0);
  for (const { name, parts } of files) {
    const text = new TextEncoder().encode(name);
    const size = length(parts);
    // Version 2.0, names in UTF-8, stored, 1980-01-01.
    const common = numbers([20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [checksum(parts), 4], [size, 4], [size, 4], [text.length, 2], [0, 2]);
    const offset = length(content);
    content.push(numbers([0x04034b50, 4]), common, text, ...parts);
    directory.push(numbers([0x02014b50, 4], [20, 2]), common, numbers([0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), text);
  }
  const count = /** @type {[number, number]} */ ([files.length, 2]);
  const end = numbers([0x06054b50, 4], [0, 2], [0, 2], count, count, [length(directory), 4], [length(content), 4], [0, 2]);
  return new Blob([...content, ...directory, end], { type: "application/zip" });
}
