/** WAV files of 32-bit floats, one channel. */

/**
 * @param {Float32Array[]} blocks
 * @param {number} sampleRate
 * @returns {Blob}
 */
export function wavFile(blocks, sampleRate) {
  return new Blob(wavParts(blocks, sampleRate), { type: "audio/wav" });
}

/**
 * The bytes of a file, in order.
 * @param {Float32Array[]} blocks
 * @param {number} sampleRate
 */
export function wavParts(blocks, sampleRate) {
  const bytes = 4 * blocks.reduce((sum, block) => sum + block.length, 0);
  const header = new DataView(new ArrayBuffer(44));
  const text = (/** @type {number} */ at, /** @type {string} */ value) =>
    [...value].forEach((letter, k) => header.setUint8(at + k, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 3, true); // IEEE float
  header.setUint16(22, 1, true);
  header.setUint32(24, sampleRate, true);
  header.setUint32(28, 4 * sampleRate, true);
  header.setUint16(32, 4, true);
  header.setUint16(34, 32, true);
  text(36, "data");
  header.setUint32(40, bytes, true);
  const samples = /** @type {Float32Array<ArrayBuffer>[]} */ (blocks);
  return [header, ...samples].map((part) => new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
}
