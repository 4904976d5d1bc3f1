/**
 * Masks every 16 ms or oftener, as `unmingle.separation.fine_masks` makes them: a model whose frames are farther apart
 * hears each window a second time, half a hop later.
 *
 * @typedef {{masks: Float32Array[], attractors: number[][]}} Masked of each source its mask, and its attractor
 */

import { tensor } from "./graphs.js";
import { magnitude, Stft } from "./stft.js";
import { orders } from "./tracking.js";

const LONGEST_HOP = 0.016;

export class FineMasks {
  /** @param {import("./graphs.js").Model} model */
  constructor(model) {
    const { stft, sample_rate, speakers } = model.description;
    this._model = model;
    this._speakers = speakers;
    this._own = new Stft(stft);
    this._twice = stft.hop > LONGEST_HOP * sample_rate && stft.hop % 2 === 0;
    this.stft = this._twice ? new Stft({ ...stft, hop: stft.hop / 2 }) : this._own;
  }

  /**
   * @param {Float32Array} audio of a window, without offset
   * @param {Float32Array} energy of its bins in the frames of `stft`
   * @returns {Promise<Masked>}
   */
  async of(audio, energy) {
    const first = await this._masked(audio);
    if (!this._twice) return first;
    const later = new Float32Array(audio.length + this.stft.hop);
    later.set(audio, this.stft.hop);
    // Its first frame lies before the window.
    const second = (await this._masked(later)).masks.map((mask) => mask.subarray(this.stft.freqs));
    const order = this._likeliest(first.masks, second, energy);
    return { ...first, masks: first.masks.map((mask, k) => this._interleaved(mask, second[order[k]])) };
  }

  /**
   * @param {Float32Array} audio
   * @returns {Promise<Masked>}
   */
  async _masked(audio) {
    const { values, frames } = magnitudes(this._own, audio);
    // At one scale, so that neither very quiet nor very loud input meets a constant in the graph.
    const peak = values.reduce((most, value) => Math.max(most, value), 1e-20);
    const scaled = tensor(values.map((value) => value / peak), [1, frames, this._own.freqs]);
    const { embedding, weight } = await this._model.run("embed", { magnitude: scaled });
    const { masks, attractors } = await this._model.run(`masks_${this._speakers}`, { embedding, weight });
    /** @param {{data: Float32Array}} stacked @param {number} k */
    const source = (stacked, k) => {
      const size = stacked.data.length / this._speakers;
      return stacked.data.slice(k * size, (k + 1) * size);
    };
    const all = Array.from({ length: this._speakers }, (_, k) => k);
    return { masks: all.map((k) => source(masks, k)), attractors: all.map((k) => [...source(attractors, k)]) };
  }

  /**
   * For each source of the first masks, that of the second which shares most energy with it: the best order of all.
   * @param {Float32Array[]} first
   * @param {Float32Array[]} second
   * @param {Float32Array} energy
   */
  _likeliest(first, second, energy) {
    const { freqs } = this.stft;
    const shared = first.map((own) =>
      second.map((other) => {
        let sum = 0;
        for (let k = 0; k < other.length; k++) {
          sum += own[k] * other[k] * energy[2 * freqs * Math.floor(k / freqs) + (k % freqs)];
        }
        return sum;
      }),
    );
    const total = (/** @type {number[]} */ order) => order.reduce((sum, place, k) => sum + shared[k][place], 0);
    return orders(first.map((_, k) => k)).reduce((best, order) => (total(order) > total(best) ? order : best));
  }

  /**
   * @param {Float32Array} first frames 0, 2, 4 ...
   * @param {Float32Array} second frames 1, 3, 5 ...
   */
  _interleaved(first, second) {
    const { freqs } = this.stft;
    const fine = new Float32Array(first.length + second.length);
    for (let k = 0; k < fine.length / freqs; k++) {
      const from = k % 2 ? second : first;
      const start = Math.floor(k / 2) * freqs;
      fine.set(from.subarray(start, start + freqs), k * freqs);
    }
    return fine;
  }
}

/**
 * @param {Stft} stft
 * @param {Float32Array} audio
 */
export function magnitudes(stft, audio) {
  const spectrum = stft.analyse(audio);
  return { values: magnitude(spectrum), frames: spectrum.frames };
}
