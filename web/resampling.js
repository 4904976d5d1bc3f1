/**
 * Conversion of sample rates. Browsers convert too, but let through so much above the band that separation is worse.
 */

const ZERO_CROSSINGS = 74;
/** Of half the lower rate; the kernel falls from 0.91 to 1. */
const CUTOFF = 0.956;
const BETA = 10;

/**
 * @param {Float32Array} audio
 * @param {number} from hertz
 * @param {number} to hertz
 * @returns {Float32Array}
 */
export function resample(audio, from, to) {
  if (from === to) return audio;
  const divisor = greatestDivisor(from, to);
  const up = to / divisor;
  const down = from / divisor;
  const reach = Math.ceil(ZERO_CROSSINGS / Math.min(1, to / from));
  /** The kernel for every place of an output between two inputs, made when it is first needed. @type {Float32Array[]} */
  const kernels = [];
  const converted = new Float32Array(Math.round((audio.length * to) / from));
  for (let n = 0; n < converted.length; n++) {
    const phase = (n * down) % up;
    const kernel = (kernels[phase] ??= kernelOf(phase / up, reach, CUTOFF * Math.min(1, to / from)));
    const first = (n * down - phase) / up - reach;
    const begin = Math.max(0, -first);
    const end = Math.min(kernel.length, audio.length - first);
    let sum = 0;
    for (let k = begin; k < end; k++) sum += kernel[k] * audio[first + k];
    converted[n] = sum;
  }
  return converted;
}

/**
 * A sinc under a Kaiser window.
 * @param {number} place between two inputs, 0 to 1
 * @param {number} reach inputs on either side
 * @param {number} cutoff of half the inputs' rate
 */
function kernelOf(place, reach, cutoff) {
  const whole = besselI0(BETA);
  return Float32Array.from({ length: 2 * reach + 1 }, (_, k) => {
    const x = k - reach - place;
    const share = x / (reach + 1);
    const window = besselI0(BETA * Math.sqrt(1 - share * share)) / whole;
    const angle = Math.PI * cutoff * x;
    return cutoff * (angle === 0 ? 1 : Math.sin(angle) / angle) * window;
  });
}

/** @param {number} x */
function besselI0(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/**
 * @param {number} a
 * @param {number} b
 * @returns {number}
 */
function greatestDivisor(a, b) {
  return b ? greatestDivisor(b, a % b) : a;
}
