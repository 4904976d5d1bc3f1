/**
 * The short-time Fourier transform of the models: frame t is centred on sample t * hop, silence surrounds the recording.
 *
 * @typedef {{frames: number, freqs: number, real: Float32Array, imaginary: Float32Array}} Spectrum frame by frame
 */

/** Fourier transforms of real signals of one length, a power of two. */
export class Fourier {
  /** @param {number} size */
  constructor(size) {
    if (size & (size - 1)) throw new Error(`A transform's size must be a power of two; got ${size}.`);
    this.size = size;
    this.real = new Float64Array(size);
    this.imaginary = new Float64Array(size);
    this._cosine = Float64Array.from({ length: size / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / size));
    this._sine = Float64Array.from({ length: size / 2 }, (_, k) => Math.sin((2 * Math.PI * k) / size));
    const bits = Math.log2(size);
    this._order = Uint32Array.from({ length: size }, (_, k) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit++) reversed |= ((k >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
  }

  /** Transform what `real` and `imaginary` hold, in place: the sum of `x[n] exp(-2 pi i k n / size)`. */
  transform() {
    const { size, real, imaginary } = this;
    for (let k = 0; k < size; k++) {
      const other = this._order[k];
      if (other <= k) continue;
      [real[k], real[other]] = [real[other], real[k]];
      [imaginary[k], imaginary[other]] = [imaginary[other], imaginary[k]];
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const cosine = this._cosine[k * stride];
          const sine = -this._sine[k * stride];
          const low = start + k;
          const high = low + half;
          const turnedReal = real[high] * cosine - imaginary[high] * sine;
          const turnedImaginary = real[high] * sine + imaginary[high] * cosine;
          real[high] = real[low] - turnedReal;
          imaginary[high] = imaginary[low] - turnedImaginary;
          real[low] += turnedReal;
          imaginary[low] += turnedImaginary;
        }
      }
    }
  }
}

export class Stft {
  /** @param {{window: string, window_length: number, hop: number}} description as in `model.json` */
  constructor({ window, window_length, hop }) {
    this.length = window_length;
    this.hop = hop;
    this.freqs = window_length / 2 + 1;
    this._fourier = new Fourier(window_length);
    this.window = Float64Array.from({ length: window_length }, (_, k) => {
      const hann = 0.5 - 0.5 * Math.cos((2 * Math.PI * k) / window_length);
      return window === "sqrt_hann" ? Math.sqrt(hann) : hann;
    });
  }

  /** @param {number} samples */
  frames(samples) {
    return Math.floor(samples / this.hop) + 1;
  }

  /**
   * The audio with some samples more, so that the last sample is a frame's centre. Those after the last centre lie in
   * one window alone, where synthesis of a masked spectrum may click.
   * @param {Float32Array} audio
   * @param {number} value of the samples
   */
  padded(audio, value) {
    const whole = new Float32Array(Math.ceil(audio.length / this.hop) * this.hop).fill(value);
    whole.set(audio);
    return whole;
  }

  /**
   * @param {Float32Array} audio
   * @returns {Spectrum}
   */
  analyse(audio) {
    const { length, hop, freqs, _fourier: fourier } = this;
    const frames = this.frames(audio.length);
    const real = new Float32Array(frames * freqs);
    const imaginary = new Float32Array(frames * freqs);
    for (let frame = 0; frame < frames; frame++) {
      const first = frame * hop - length / 2;
      for (let k = 0; k < length; k++) fourier.real[k] = (audio[first + k] ?? 0) * this.window[k];
      fourier.imaginary.fill(0);
      fourier.transform();
      real.set(fourier.real.subarray(0, freqs), frame * freqs);
      imaginary.set(fourier.imaginary.subarray(0, freqs), frame * freqs);
    }
    return { frames, freqs, real, imaginary };
  }

  /**
   * A masked spectrum as audio.
   * @param {Spectrum} spectrum
   * @param {Float32Array} mask a gain for every bin
   * @param {number} samples
   */
  synthesise(spectrum, mask, samples) {
    const { length, hop, freqs, _fourier: fourier } = this;
    const sum = new Float64Array(samples);
    const envelope = new Float64Array(samples);
    for (let frame = 0; frame < spectrum.frames; frame++) {
      for (let k = 0; k < length; k++) {
        // Of a real signal: beyond half the rate, the spectrum is that below, mirrored.
        const bin = frame * freqs + (k < freqs ? k : length - k);
        fourier.real[k] = spectrum.real[bin] * mask[bin];
        // Conjugated, the transform is its own inverse.
        fourier.imaginary[k] = (k < freqs ? -1 : 1) * spectrum.imaginary[bin] * mask[bin];
      }
      fourier.transform();
      const first = frame * hop - length / 2;
      for (let k = Math.max(0, -first); k < Math.min(length, samples - first); k++) {
        sum[first + k] += (fourier.real[k] / length) * this.window[k];
        envelope[first + k] += this.window[k] ** 2;
      }
    }
    return Float32Array.from(sum, (value, k) => value / Math.max(envelope[k], 1e-11));
  }
}

/**
 * @param {Spectrum} spectrum
 * @returns {Float32Array} for every frame, every frequency
 */
export function magnitude({ real, imaginary }) {
  return Float32Array.from(real, (value, k) => Math.hypot(value, imaginary[k]));
}
