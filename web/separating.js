/**
 * Separate a recording as `unmingle separate` does: in windows, whose speakers are joined by their attractors and by
 * what they have in common where windows overlap.
 */

import { FineMasks, magnitudes } from "./fine_masks.js";
import { onset, speaking, stretches } from "./speaking.js";
import { assignSpeakers } from "./tracking.js";
import { joined, spansOf } from "./windows.js";

const SURE_JOIN = 0.8;
const SMOOTHED_SECONDS = 0.1;

/**
 * @typedef {{first: number, frames: number, masks: Float32Array[], attractors: number[][], power: Float64Array[],
 *   upper: Float64Array[], agreement: number[][] | null}} Window of each source its mask, its attractor, and its power in
 *   each frame, in all of the band and in the upper half
 * @typedef {{samples: Float32Array, speaks: [number, number][]}} Speaker
 */

/**
 * @param {import("./graphs.js").Model} model
 * @param {Float32Array} audio at the model's rate
 * @param {(share: number) => void} onProgress
 * @returns {Promise<{speakers: Speaker[], warnings: string[]}>} speaker 1 speaks first
 */
export async function separate(model, audio, onProgress) {
  const { sample_rate, speakers: count } = model.description;
  const fine = new FineMasks(model);
  const { stft } = fine;
  const frameSeconds = stft.hop / sample_rate;
  const offset = average(audio);
  const padded = stft.padded(audio, offset);
  const windows = await masked(fine, sample_rate, padded, onProgress);
  const assignment = assignSpeakers(windows);
  // The source of each window that is each speaker's.
  const sources = assignment.speakers.map((speakers) => speakers.map((_, speaker) => speakers.indexOf(speaker)));
  /** @param {"power" | "upper" | "masks"} kind @param {number} speaker @param {number} width */
  const whole = (kind, speaker, width) =>
    joined(windows, windows.map((window, n) => window[kind][sources[n][speaker]]), width);
  const numbers = Array.from({ length: count }, (_, speaker) => speaker);
  const pieces = speaking(numbers.map((speaker) => whole("power", speaker, 1)), frameSeconds);
  const order = numbers.sort((a, b) => onset(pieces.speaks[a]) - onset(pieces.speaks[b]));

  const centredAudio = padded.map((sample) => sample - offset);
  const spectrum = stft.analyse(centredAudio);
  const mixture = centredAudio.subarray(0, audio.length);
  const estimates = order.map((speaker) =>
    stft.synthesise(spectrum, whole("masks", speaker, stft.freqs), audio.length),
  );
  const gains = residualGains(order.map((speaker) => whole("upper", speaker, 1)), frameSeconds);
  addUp(mixture, estimates, gains, stft.hop);
  return {
    speakers: order.map((speaker, k) => ({
      samples: estimates[k].map((sample) => sample + offset / count),
      speaks: stretches(pieces.speaks[speaker], pieces.seconds),
    })),
    warnings:
      assignment.confidence < SURE_JOIN ? ["in parts no voice was recognized, so a speaker may change from one file to another there"] : [],
  };
}

/**
 * @param {FineMasks} fine
 * @param {number} sampleRate
 * @param {Float32Array} audio
 * @param {(share: number) => void} onProgress
 * @returns {Promise<Window[]>}
 */
async function masked(fine, sampleRate, audio, onProgress) {
  const { stft } = fine;
  /** @type {Window[]} */
  const windows = [];
  for (const { first, from, to } of spansOf(audio.length, sampleRate, stft.hop)) {
    const heard = centred(audio.subarray(from, to));
    const { values, frames } = magnitudes(stft, heard);
    const energy = values.map((value) => value * value);
    const { masks, attractors } = await fine.of(heard, energy);
    const before = windows[windows.length - 1];
    windows.push({
      first,
      frames,
      masks,
      attractors,
      power: masks.map((mask) => framePower(energy, mask, stft.freqs, 0)),
      upper: masks.map((mask) => framePower(energy, mask, stft.freqs, Math.floor(stft.freqs / 2))),
      agreement: before ? agreement(before, masks, first, energy, stft.freqs) : null,
    });
    onProgress(to / audio.length);
  }
  return windows;
}

/** @param {Float32Array} audio */
const average = (audio) => audio.reduce((sum, sample) => sum + sample, 0) / audio.length;

/** @param {Float32Array} audio */
function centred(audio) {
  const offset = average(audio);
  return audio.map((sample) => sample - offset);
}

/**
 * Power of each masked frame.
 * @param {Float32Array} energy of the mixture's bins
 * @param {Float32Array} mask
 * @param {number} freqs
 * @param {number} lowest frequency
 */
function framePower(energy, mask, freqs, lowest) {
  return Float64Array.from({ length: energy.length / freqs }, (_, frame) => {
    let sum = 0;
    for (let k = frame * freqs + lowest; k < (frame + 1) * freqs; k++) sum += energy[k] * mask[k] ** 2;
    return sum;
  });
}

/**
 * Energy that each source of the window before shares with each of this one, in the frames that both have.
 * @param {Window} before
 * @param {Float32Array[]} masks
 * @param {number} first frame of this window
 * @param {Float32Array} energy of the mixture in this window
 * @param {number} freqs
 */
function agreement(before, masks, first, energy, freqs) {
  const skipped = (first - before.first) * freqs;
  return before.masks.map((earlier) =>
    masks.map((later) => {
      let sum = 0;
      for (let k = 0; k < earlier.length - skipped; k++) sum += earlier[skipped + k] * later[k] * energy[k];
      return sum;
    }),
  );
}

/**
 * Each speaker's share, in each frame, of what masks leave of the mixture: it goes with the power in the upper half of
 * the band.
 * @param {Float32Array[]} power of each speaker in each frame
 * @param {number} frameSeconds
 */
function residualGains(power, frameSeconds) {
  const reach = Math.round(SMOOTHED_SECONDS / frameSeconds / 2);
  const frames = power[0].length;
  const smooth = power.map((own) =>
    Float64Array.from({ length: frames }, (_, frame) => {
      let sum = 0;
      for (let k = frame - reach; k <= frame + reach; k++) sum += own[k] ?? 0;
      return sum / (2 * reach + 1);
    }),
  );
  const mean = smooth.reduce((sum, own) => sum + own.reduce((total, value) => total + value, 0), 0);
  const floor = (1e-6 * mean) / (frames * power.length) + 1e-30;
  return smooth.map((own) =>
    own.map((value, frame) => {
      const total = smooth.reduce((sum, each) => sum + each[frame] + floor, 0);
      return (value + floor) / total;
    }),
  );
}

/**
 * Share what the estimates leave of the mixture among them, so that they add up to it.
 * @param {Float32Array} mixture
 * @param {Float32Array[]} estimates are changed
 * @param {Float64Array[]} gains of each speaker in each frame
 * @param {number} hop
 */
function addUp(mixture, estimates, gains, hop) {
  const last = gains[0].length - 1;
  mixture.forEach((sample, k) => {
    const left = sample - estimates.reduce((sum, each) => sum + each[k], 0);
    const frame = Math.min(Math.floor(k / hop), last);
    const next = Math.min(frame + 1, last);
    const share = k / hop - frame;
    estimates.forEach((each, speaker) => {
      each[k] += left * ((1 - share) * gains[speaker][frame] + share * gains[speaker][next]);
    });
  });
}
