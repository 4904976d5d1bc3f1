/**
 * Separate a recording as `unmingle separate` does: in windows, whose speakers are joined by what they have in common
 * where windows overlap.
 */

import { tensor } from "./graphs.js";
import { magnitude, Stft } from "./stft.js";

const WINDOW_SECONDS = 32;
const OVERLAP_SECONDS = 6;
const PIECE_SECONDS = 0.05;
const AUDIBLE = 10 ** -2.5;
const OWN_SHARE = 0.3;
const SHORTEST_PAUSE = 0.3;
const SHORTEST_SPEECH = 0.15;

/**
 * @param {import("./graphs.js").Model} model
 * @param {Float32Array} audio at the model's rate
 * @param {(share: number) => void} onProgress
 * @returns {Promise<{samples: Float32Array, speaks: [number, number][]}[]>} one per speaker; speaker 1 speaks first
 */
export async function separate(model, audio, onProgress) {
  const { sample_rate, speakers } = model.description;
  const stft = new Stft(model.description.stft);
  const offset = audio.reduce((sum, sample) => sum + sample, 0) / audio.length;
  const centred = audio.map((sample) => sample - offset);
  const spectrum = stft.analyse(centred);
  const masks = await masksOf(model, stft, centred, spectrum, onProgress);
  const estimates = masks.map((mask) => stft.synthesise(spectrum, mask, audio.length));
  const frameSeconds = stft.hop / sample_rate;
  const power = masks.map((mask) => framePower(spectrum, mask));
  const pieces = speaking(power, frameSeconds);
  const order = [...pieces.speaks.keys()].sort((a, b) => onset(pieces.speaks[a]) - onset(pieces.speaks[b]));
  // What masks that do not add up to one leave is everybody's, and so is an offset.
  const left = audio.map((sample, k) => (sample - estimates.reduce((sum, each) => sum + each[k], 0)) / speakers);
  return order.map((speaker) => ({
    samples: estimates[speaker].map((sample, k) => sample + left[k]),
    speaks: stretches(pieces.speaks[speaker], pieces.seconds),
  }));
}

/**
 * @param {import("./graphs.js").Model} model
 * @param {Stft} stft
 * @param {Float32Array} audio
 * @param {import("./stft.js").Spectrum} spectrum
 * @param {(share: number) => void} onProgress
 * @returns {Promise<Float32Array[]>} one per speaker
 */
async function masksOf(model, stft, audio, spectrum, onProgress) {
  const { sample_rate, speakers } = model.description;
  const { frames, freqs } = spectrum;
  const rate = sample_rate / stft.hop;
  const window = Math.round(WINDOW_SECONDS * rate);
  const advance = window - Math.round(OVERLAP_SECONDS * rate);
  const masks = Array.from({ length: speakers }, () => new Float32Array(frames * freqs));
  const all = magnitude(spectrum);
  let done = 0;
  for (let first = 0; done < frames; first = Math.min(first + advance, Math.max(0, frames - window))) {
    const last = Math.min(first + window, frames);
    // Each window by itself, like a recording of its own.
    const heard = stft.analyse(audio.subarray(first * stft.hop, last === frames ? audio.length : last * stft.hop));
    const found = await windowMasks(model, magnitude(heard), heard.frames, freqs);
    const shared = done - first;
    const energy = all.subarray(first * freqs, last * freqs).map((value) => value * value);
    const before = masks.map((mask) => mask.subarray(first * freqs, done * freqs));
    const joined = done ? likest(before, found, energy) : found;
    masks.forEach((mask, speaker) => fade(mask, joined[speaker], first, shared, last, freqs));
    done = last;
    onProgress(done / frames);
  }
  return masks;
}

/**
 * @param {import("./graphs.js").Model} model
 * @param {Float32Array} values
 * @param {number} frames
 * @param {number} freqs
 */
async function windowMasks(model, values, frames, freqs) {
  const speakers = model.description.speakers;
  const { embedding, weight } = await model.run("embed", { magnitude: tensor(values, [1, frames, freqs]) });
  const { masks } = await model.run(`masks_${speakers}`, { embedding, weight });
  const size = frames * freqs;
  return Array.from({ length: speakers }, (_, k) => masks.data.slice(k * size, (k + 1) * size));
}

/**
 * The masks of a window in the order in which they agree best with those before.
 * @param {Float32Array[]} before in the frames that both have
 * @param {Float32Array[]} found they begin with these frames
 * @param {Float32Array} energy of the mixture
 */
function likest(before, found, energy) {
  const agreement = before.map((earlier) =>
    found.map((later) => earlier.reduce((sum, value, k) => sum + value * later[k] * energy[k], 0)),
  );
  let best = { score: -1, order: found.map((_, k) => k) };
  for (const order of orders(best.order)) {
    const score = order.reduce((sum, source, speaker) => sum + agreement[speaker][source], 0);
    if (score > best.score) best = { score, order };
  }
  return best.order.map((source) => found[source]);
}

/**
 * @param {number[]} items
 * @returns {number[][]} all orders of them
 */
function orders(items) {
  if (items.length < 2) return [items];
  return items.flatMap((item) => orders(items.filter((other) => other !== item)).map((rest) => [item, ...rest]));
}

/**
 * Write a window's mask into the whole, cross-faded in the frames that are there already.
 * @param {Float32Array} whole
 * @param {Float32Array} mask
 * @param {number} first frame
 * @param {number} shared frames that are there already
 * @param {number} last frame, not written
 * @param {number} freqs
 */
function fade(whole, mask, first, shared, last, freqs) {
  for (let frame = first; frame < last; frame++) {
    const share = frame - first < shared ? (frame - first + 0.5) / shared : 1;
    for (let k = 0; k < freqs; k++) {
      const place = frame * freqs + k;
      whole[place] = share * mask[place - first * freqs] + (1 - share) * whole[place];
    }
  }
}

/**
 * @param {import("./stft.js").Spectrum} spectrum
 * @param {Float32Array} mask
 */
function framePower({ frames, freqs, real, imaginary }, mask) {
  return Float64Array.from({ length: frames }, (_, frame) => {
    let sum = 0;
    for (let k = frame * freqs; k < (frame + 1) * freqs; k++) sum += (real[k] ** 2 + imaginary[k] ** 2) * mask[k] ** 2;
    return sum;
  });
}

/**
 * When each speaker speaks: within 25 dB of their own loud pieces, if that is not just what leaks over.
 * @param {Float64Array[]} power of every speaker's frames
 * @param {number} frameSeconds
 * @returns {{speaks: boolean[][], seconds: number}} for every speaker every piece, and the length of a piece
 */
function speaking(power, frameSeconds) {
  const size = Math.max(1, Math.round(PIECE_SECONDS / frameSeconds));
  const count = Math.ceil(power[0].length / size);
  const means = power.map((frames) =>
    Float64Array.from({ length: count }, (_, k) => {
      return frames.subarray(k * size, (k + 1) * size).reduce((sum, value) => sum + value, 0) / size;
    }),
  );
  const speaks = means.map((own) => {
    const loud = quantile(own, 0.95);
    return [...own].map((value, k) => {
      const total = means.reduce((sum, each) => sum + each[k], 0);
      return value > AUDIBLE * loud && value >= OWN_SHARE * total && value > 0;
    });
  });
  return { speaks, seconds: size * frameSeconds };
}

/**
 * @param {Float64Array} values
 * @param {number} share
 */
function quantile(values, share) {
  const sorted = values.slice().sort();
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  return sorted[below] + (place - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
}

/** @param {boolean[]} speaks */
function onset(speaks) {
  const first = speaks.indexOf(true);
  return first < 0 ? speaks.length : first;
}

/**
 * @param {boolean[]} speaks
 * @param {number} seconds of a piece
 */
function stretches(speaks, seconds) {
  /** @type {[number, number][]} */
  const joined = [];
  speaks.forEach((speaking, k) => {
    if (!speaking) return;
    const last = joined[joined.length - 1];
    if (last && k * seconds - last[1] < SHORTEST_PAUSE) last[1] = (k + 1) * seconds;
    else joined.push([k * seconds, (k + 1) * seconds]);
  });
  return joined.filter(([start, end]) => end - start >= SHORTEST_SPEECH);
}
