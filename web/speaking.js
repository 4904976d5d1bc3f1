/** When each speaker speaks, and who speaks first, as `unmingle separate` tells. */

const PIECE_SECONDS = 0.05;
const AUDIBLE = 10 ** -2.5;
const OWN_SHARE = 0.3;
const SHORTEST_PAUSE = 0.3;
const SHORTEST_SPEECH = 0.15;

/**
 * When each speaker speaks: within 25 dB of their own loud pieces, if that is not just what leaks over.
 * @param {Float32Array[]} power of every speaker's frames
 * @param {number} frameSeconds
 * @returns {{speaks: boolean[][], seconds: number}} for every speaker every piece, and the length of a piece
 */
export function speaking(power, frameSeconds) {
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
export function onset(speaks) {
  const first = speaks.indexOf(true);
  return first < 0 ? speaks.length : first;
}

/**
 * @param {boolean[]} speaks
 * @param {number} seconds of a piece
 */
export function stretches(speaks, seconds) {
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
