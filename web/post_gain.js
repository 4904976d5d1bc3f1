/** The least that stays of loud frames where the recording is nearly clean, as `unmingle denoise` has it. */

const FADE = 0.5 ** (1 / 250);
const STEP_DB = 0.3;
const START_FRAMES = 30;
const QUIET_NOISE_DB = [24, 30];
const LITTLE_REMOVED_DB = [12, 18];
const SIBILANTS_HERTZ = 2500;
const SOME_REMOVED_DB = [8, 12];
const LOUD_DB = [-30, -20];
const MOST_KEPT = 0.9;
const LOOK_AHEAD_FRAMES = 250;
const TINY = 1e-20;

/**
 * Raise masks to a floor, in place, frame by frame.
 * @param {Float32Array} masks a gain for every bin
 * @param {Float32Array} magnitudes of the mixture
 * @param {number} freqs
 * @param {number} sampleRate in hertz
 */
export function raise(masks, magnitudes, freqs, sampleRate) {
  // Sibilants are what is removed by mistake most often, so they say little about the noise.
  const low = Math.round(Math.min(1, (2 * SIBILANTS_HERTZ) / sampleRate) * (freqs - 1));
  let power = 0;
  let square = 0;
  let kept = 0;
  let removed = 0;
  let lowKept = 0;
  let lowRemoved = 0;
  let median = 0;
  const frames = masks.length / freqs;
  const totals = new Float64Array(frames);
  const levels = new Float64Array(frames);
  const clean = new Float64Array(frames);
  for (let frame = 0; frame < frames; frame++) {
    const now = { total: 0, kept: 0, removed: 0, lowKept: 0, lowRemoved: 0 };
    for (let k = 0; k < freqs; k++) {
      const energy = magnitudes[frame * freqs + k] ** 2;
      const mask = masks[frame * freqs + k];
      now.total += energy;
      now.kept += energy * mask ** 2;
      now.removed += energy * (1 - mask) ** 2;
      if (k > low) continue;
      now.lowKept += energy * mask ** 2;
      now.lowRemoved += energy * (1 - mask) ** 2;
    }
    power = FADE * power + now.total;
    square = FADE * square + now.total ** 2;
    kept = FADE * kept + now.kept;
    removed = FADE * removed + now.removed;
    lowKept = FADE * lowKept + now.lowKept;
    lowRemoved = FADE * lowRemoved + now.lowRemoved;
    // At first the median follows quickly; later it moves by even steps.
    const lost = decibels(now.removed);
    const quick = frame < START_FRAMES ? Math.abs(lost - median) / (frame + 1) : 0;
    median = frame === 0 ? lost : median + Math.max(STEP_DB, quick) * (lost < median ? -1 : 1);
    totals[frame] = decibels(now.total);
    levels[frame] = decibels(square / Math.max(power, TINY));
    clean[frame] = Math.min(
      share(levels[frame] - median, QUIET_NOISE_DB),
      share(decibels(lowKept) - decibels(lowRemoved), LITTLE_REMOVED_DB),
      share(decibels(kept) - decibels(removed), SOME_REMOVED_DB),
    );
  }
  for (let frame = 0; frame < frames; frame++) {
    const later = Math.min(frame + LOOK_AHEAD_FRAMES, frames - 1);
    const floor = MOST_KEPT * clean[later] * share(totals[frame] - levels[later], LOUD_DB);
    for (let k = frame * freqs; k < (frame + 1) * freqs; k++) masks[k] = Math.max(masks[k], floor);
  }
}

/** @param {number} power */
function decibels(power) {
  return 10 * Math.log10(power + TINY);
}

/**
 * Where a value lies between two others: 0 at the first or below, 1 at the second or above.
 * @param {number} value
 * @param {number[]} bounds
 */
function share(value, [low, high]) {
  return Math.min(1, Math.max(0, (value - low) / (high - low)));
}
