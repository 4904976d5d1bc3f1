/**
 * Remove noise as `unmingle denoise` does from a file: the gate judges ten seconds at a time and chooses an expert, whose
 * mask fades in.
 */

import { tensor } from "./graphs.js";
import { raise } from "./post_gain.js";
import { magnitude, Stft } from "./stft.js";

const LOOK_AHEAD_SECONDS = 10;
const KEPT_SECONDS = 1;
const FADE_SECONDS = 0.25;

/**
 * @param {import("./graphs.js").Model} model
 * @param {Float32Array} audio at the model's rate
 * @param {(share: number) => void} onProgress
 * @returns {Promise<Float32Array>}
 */
export async function denoise(model, audio, onProgress) {
  const { stft: shape, sample_rate } = model.description;
  const stft = new Stft(shape);
  // The offset is that of the beginning, which is all that a stream knows.
  const beginning = audio.subarray(0, LOOK_AHEAD_SECONDS * sample_rate);
  const offset = beginning.reduce((sum, sample) => sum + sample, 0) / beginning.length;
  const spectrum = stft.analyse(stft.padded(audio.map((sample) => sample - offset), 0));
  const magnitudes = magnitude(spectrum);
  const masks = await new Experts(model, stft).masks(magnitudes, spectrum.frames, onProgress);
  raise(masks, magnitudes, stft.freqs, sample_rate);
  return stft.synthesise(spectrum, masks, audio.length).map((sample) => sample + offset);
}

/** Some frames of features or masks, one after the other. */
class Frames {
  /**
   * @param {Float32Array} data
   * @param {number} freqs
   */
  constructor(data, freqs) {
    this.data = data;
    this.freqs = freqs;
  }

  get count() {
    return this.data.length / this.freqs;
  }

  /**
   * @param {number} first
   * @param {number} [last]
   */
  slice(first, last = this.count) {
    return new Frames(this.data.slice(first * this.freqs, last * this.freqs), this.freqs);
  }
}

/** Which expert masks which frames. */
class Experts {
  /**
   * @param {import("./graphs.js").Model} model
   * @param {Stft} stft
   */
  constructor(model, stft) {
    const { denoising, sample_rate } = model.description;
    this._model = model;
    this._freqs = stft.freqs;
    this._perSecond = sample_rate / stft.hop;
    this._gate = denoising.gate;
    this._preludeFrames = denoising.prelude_frames;
    this._state = denoising.state;
    this._expert = denoising.default_expert;
    this._sums = model.noSums;
    /** What an expert that takes over is warmed with. */
    this._kept = new Frames(new Float32Array(0), this._freqs);
    this._now = this._blank();
    /** The expert before, while its mask fades out. @type {{expert: number, state: any, faded: number} | null} */
    this._before = null;
    this._begun = false;
  }

  /**
   * @param {Float32Array} magnitudes
   * @param {number} frames
   * @param {(share: number) => void} onProgress
   * @returns {Promise<Float32Array>} a gain for every bin
   */
  async masks(magnitudes, frames, onProgress) {
    const all = new Frames(magnitudes, this._freqs);
    const size = Math.round(LOOK_AHEAD_SECONDS * this._perSecond);
    if (this._preludeFrames) this._kept = await this._features(this._prelude(all.slice(0, Math.min(size, frames))));
    this._now = await this._warmed(this._expert);
    const masks = new Float32Array(magnitudes.length);
    for (let first = 0; first < frames; first += size) {
      const last = Math.min(first + size, frames);
      const heard = all.slice(first, last);
      const features = await this._features(heard);
      // A last piece of less than a second says too little to change the choice.
      if (this._gate && (!this._begun || heard.count >= Math.round(KEPT_SECONDS * this._perSecond))) {
        await this._choose(features, heard);
      }
      masks.set(await this._masked(features), first * this._freqs);
      onProgress(last / frames);
    }
    return masks;
  }

  /** @param {Frames} beginning shorter than the prelude, it is heard over and over */
  _prelude(beginning) {
    const prelude = new Float32Array(this._preludeFrames * this._freqs);
    for (let k = 0; k < prelude.length; k++) prelude[k] = beginning.data[k % beginning.data.length];
    return new Frames(prelude, this._freqs);
  }

  /** @param {Frames} magnitudes */
  async _features(magnitudes) {
    const given = tensor(magnitudes.data, [1, magnitudes.count, this._freqs]);
    const { features, sums_after } = await this._model.run("features", { magnitude: given, sums: this._sums });
    this._sums = sums_after;
    return new Frames(features.data, this._freqs);
  }

  _blank() {
    const [layers, hidden] = this._state;
    const zeros = () => tensor(new Float32Array(layers * hidden), [layers, 1, hidden]);
    return { h: zeros(), c: zeros() };
  }

  /**
   * @param {number} expert
   * @param {Frames} features
   * @param {any} state
   * @returns {Promise<{mask: Float32Array, state: any}>}
   */
  async _step(expert, features, state) {
    if (!features.count) return { mask: new Float32Array(0), state };
    const given = tensor(features.data, [1, features.count, this._freqs]);
    const { mask, h_after, c_after } = await this._model.run(`expert_${expert}`, { features: given, ...state });
    return { mask: mask.data, state: { h: h_after, c: c_after } };
  }

  /** @param {number} expert */
  async _warmed(expert) {
    return (await this._step(expert, this._kept, this._blank())).state;
  }

  /**
   * Let the gate choose the expert for these frames.
   * @param {Frames} features
   * @param {Frames} heard their magnitudes
   */
  async _choose(features, heard) {
    const { specialist, listening_frames, low_freqs } = this._gate;
    const state = this._expert === specialist ? this._now : await this._warmed(specialist);
    const listened = features.slice(0, Math.min(listening_frames, features.count));
    const { mask } = await this._step(specialist, listened, state);
    const judged = low_freqs ? lowAndHigh(mask, heard, low_freqs) : energies(mask, heard.data);
    const evidence = tensor(judged, [1, judged.length]);
    const scores = [...(await this._model.run("gate", { evidence })).scores.data];
    const choice = scores.indexOf(Math.max(...scores));
    if (choice === this._expert) return;
    if (this._begun) this._before = { expert: this._expert, state: this._now, faded: 0 };
    this._now = choice === specialist ? state : await this._warmed(choice);
    this._expert = choice;
  }

  /** @param {Frames} features */
  async _masked(features) {
    const { mask, state } = await this._step(this._expert, features, this._now);
    this._now = state;
    this._begun = true;
    this._kept = features.slice(Math.max(0, features.count - Math.round(KEPT_SECONDS * this._perSecond)));
    return this._before ? this._faded(features, mask, this._before) : mask;
  }

  /**
   * @param {Frames} features
   * @param {Float32Array} mask
   * @param {{expert: number, state: any, faded: number}} before
   */
  async _faded(features, mask, before) {
    const length = Math.round(FADE_SECONDS * this._perSecond);
    const count = Math.min(features.count, length - before.faded);
    const old = await this._step(before.expert, features.slice(0, count), before.state);
    const faded = mask.slice();
    for (let k = 0; k < count * this._freqs; k++) {
      const share = (before.faded + 1 + Math.floor(k / this._freqs)) / (length + 1);
      faded[k] = share * mask[k] + (1 - share) * old.mask[k];
    }
    before.state = old.state;
    before.faded += count;
    if (before.faded >= length) this._before = null;
    return faded;
  }
}

/**
 * The energies of low frequencies, then those of high ones.
 * @param {Float32Array} mask
 * @param {Frames} heard magnitudes that begin with the mask's frames
 * @param {number} low how many frequencies are low
 */
function lowAndHigh(mask, heard, low) {
  const { data, freqs } = heard;
  return Float32Array.from([
    ...energies(mask, data, (k) => k % freqs < low),
    ...energies(mask, data, (k) => k % freqs >= low),
  ]);
}

/**
 * The energy that a mask keeps, doubts and removes.
 * @param {Float32Array} mask
 * @param {Float32Array} magnitudes they begin with the mask's frames
 * @param {(k: number) => boolean} counts whether a value counts
 */
function energies(mask, magnitudes, counts = () => true) {
  const sums = [0, 0, 0];
  mask.forEach((gain, k) => {
    if (!counts(k)) return;
    const power = magnitudes[k] ** 2;
    sums[0] += gain ** 2 * power;
    sums[1] += 2 * gain * (1 - gain) * power;
    sums[2] += (1 - gain) ** 2 * power;
  });
  return Float32Array.from(sums);
}
