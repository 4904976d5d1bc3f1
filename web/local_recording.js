/** A recording and its estimates in memory, as the player wants it. */

import { Fourier } from "./stft.js";
import { wavFile, wavParts } from "./wav.js";
import { zipFile } from "./zip.js";

/** @typedef {{name: string, channels: number, speaks: [number, number][], samples: Float32Array}} LocalTrack */

const BANDS = 128;
const HIGHEST_HERTZ = 8000;
const WINDOW_SECONDS = 0.032;
const WINDOWS_PER_COLUMN = 4;
const RANGE_DB = 70;

export class LocalRecording {
  /**
   * @param {string} name
   * @param {number} sampleRate
   * @param {Float32Array} original
   * @param {{name: string, samples: Float32Array, speaks: [number, number][]}[]} estimates
   * @param {string[]} warnings
   */
  constructor(name, sampleRate, original, estimates, warnings) {
    this.name = name;
    this.sampleRate = sampleRate;
    this.length = original.length;
    this.formats = ["wav"];
    this.warnings = warnings;
    /** @type {LocalTrack[]} */
    this.tracks = [{ name: "original", samples: original, speaks: [] }, ...estimates].map((each) => ({
      ...each,
      channels: 1,
    }));
    /** @type {Map<string, string>} */
    this._addresses = new Map();
    this._loudest = Math.max(...this._powers(original, 0, original.length, 200));
  }

  /**
   * @param {LocalTrack} track
   * @param {number} start first sample
   * @param {number} count samples; fewer come at the end
   */
  async samples(track, start, count) {
    return [track.samples.slice(start, start + count)];
  }

  /**
   * A stretch of a track as columns to draw.
   * @param {LocalTrack} track
   * @param {number} start first sample
   * @param {number} count samples
   * @param {number} width columns
   */
  async picture(track, start, count, width) {
    const low = new Float32Array(width);
    const high = new Float32Array(width);
    for (let column = 0; column < width; column++) {
      const first = start + Math.floor((column * count) / width);
      const last = Math.max(first + 1, start + Math.floor(((column + 1) * count) / width));
      for (const sample of track.samples.subarray(first, last)) {
        low[column] = Math.min(low[column], sample);
        high[column] = Math.max(high[column], sample);
      }
    }
    const shades = Uint8Array.from(this._powers(track.samples, start, count, width), (power) => {
      const decibels = 10 * Math.log10(Math.max(power, 1e-30) / Math.max(this._loudest, 1e-20));
      return Math.min(255, Math.max(0, 255 * (1 + decibels / RANGE_DB)));
    });
    return { start, count, low, high, shades };
  }

  /**
   * Power of every column's bands, the lowest frequency first.
   * @param {Float32Array} samples
   * @param {number} start
   * @param {number} count
   * @param {number} width
   */
  _powers(samples, start, count, width) {
    const size = 2 ** Math.round(Math.log2(WINDOW_SECONDS * this.sampleRate));
    const fourier = new Fourier(size);
    const window = Float64Array.from({ length: size }, (_, k) => 0.5 - 0.5 * Math.cos((2 * Math.PI * k) / (size - 1)));
    const bins = Math.min(HIGHEST_HERTZ / this.sampleRate, 0.5) * size;
    const powers = new Float64Array(width * BANDS);
    const mean = new Float64Array(size / 2 + 1);
    for (let column = 0; column < width; column++) {
      mean.fill(0);
      for (let k = 0; k < WINDOWS_PER_COLUMN; k++) {
        const centre = start + ((column + (k + 0.5) / WINDOWS_PER_COLUMN) * count) / width;
        const first = Math.round(centre) - size / 2;
        for (let n = 0; n < size; n++) fourier.real[n] = (samples[first + n] ?? 0) * window[n];
        fourier.imaginary.fill(0);
        fourier.transform();
        for (let bin = 0; bin <= size / 2; bin++) {
          mean[bin] += (fourier.real[bin] ** 2 + fourier.imaginary[bin] ** 2) / WINDOWS_PER_COLUMN;
        }
      }
      for (let band = 0; band < BANDS; band++) {
        powers[column * BANDS + band] = mean[Math.round(((band + 0.5) / BANDS) * bins)];
      }
    }
    return powers;
  }

  /**
   * @param {{name: string}} track
   * @param {string} format
   */
  fileName(track, format) {
    return `${this.name.replace(/\.[^.]*$/, "")}_${track.name}.${format}`;
  }

  /**
   * @param {LocalTrack} track
   * @param {string} _format always WAV
   */
  fileAddress(track, _format) {
    return this._address(track.name, () => wavFile([track.samples], this.sampleRate));
  }

  /** @param {string} format */
  archiveName(format) {
    return `${this.name.replace(/\.[^.]*$/, "")}_${format}.zip`;
  }

  /**
   * The estimates.
   * @param {string} format
   */
  archiveAddress(format) {
    return this._address("", () =>
      zipFile(
        this.tracks.slice(1).map((track) => ({
          name: this.fileName(track, format),
          parts: wavParts([track.samples], this.sampleRate),
        })),
      ),
    );
  }

  /**
   * @param {string} key
   * @param {() => Blob} make
   */
  _address(key, make) {
    let address = this._addresses.get(key);
    if (!address) this._addresses.set(key, (address = URL.createObjectURL(make())));
    return address;
  }

  /** Free what downloads hold. */
  close() {
    this._addresses.forEach((address) => URL.revokeObjectURL(address));
  }
}
