/** Decoding by the browser, at the file's own rate where its header tells it. */

const USUAL_RATE = 48000;
const LONGEST_MINUTES = 20;

/**
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<{audio: Float32Array, sampleRate: number}>} the mean of its channels
 */
export async function decode(file, name) {
  const bytes = await file.arrayBuffer();
  const sampleRate = rateOf(bytes) ?? USUAL_RATE;
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes);
  } catch {
    throw new Error(`${name} is no audio that this browser can decode.`);
  }
  if (buffer.duration > 60 * LONGEST_MINUTES) throw new Error(`${name} is longer than ${LONGEST_MINUTES} minutes.`);
  const audio = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    buffer.getChannelData(channel).forEach((sample, k) => (audio[k] += sample / buffer.numberOfChannels));
  }
  if (!audio.some((sample) => sample !== 0)) throw new Error(`${name} is silent.`);
  return { audio, sampleRate };
}

/**
 * The rate in the header of WAV and FLAC.
 * @param {ArrayBuffer} bytes
 * @returns {number | null}
 */
function rateOf(bytes) {
  if (bytes.byteLength < 44) return null;
  const view = new DataView(bytes);
  const text = (/** @type {number} */ at) => String.fromCharCode(...new Uint8Array(bytes, at, 4));
  let rate = 0;
  if (text(0) === "RIFF" && text(12) === "fmt ") rate = view.getUint32(24, true);
  if (text(0) === "fLaC") rate = view.getUint32(18) >>> 12;
  return rate >= 8000 && rate <= 96000 ? rate : null;
}
