/**
 * Windows of a long recording, as `unmingle separate` cuts it: each is masked by itself, and neighbours are cross-faded
 * where they overlap.
 *
 * @typedef {{first: number, from: number, to: number}} Span first frame, first sample, and sample after the last one
 * @typedef {{first: number, frames: number}} Place first frame in the recording, and number of frames
 */

const WINDOW_SECONDS = 32;
const OVERLAP_SECONDS = 6;

/**
 * The last window is as long as the others.
 * @param {number} samples of the recording
 * @param {number} sampleRate
 * @param {number} hop
 * @returns {Span[]}
 */
export function spansOf(samples, sampleRate, hop) {
  const frames = Math.round((WINDOW_SECONDS * sampleRate) / hop);
  const advance = frames - Math.round((OVERLAP_SECONDS * sampleRate) / hop);
  /** @type {Span[]} */
  const spans = [];
  const span = (/** @type {number} */ first) => ({ first, from: first * hop, to: (first + frames) * hop });
  let first = 0;
  for (; samples - first * hop >= (frames + advance) * hop; first += advance) spans.push(span(first));
  if (samples - first * hop > frames * hop) {
    spans.push(span(first));
    first = Math.ceil((samples - frames * hop) / hop);
  }
  return [...spans, { ...span(first), to: samples }];
}

/**
 * Frames that a window shares with the next one.
 * @param {Place[]} windows
 * @param {number} number
 */
export function sharedFrames(windows, number) {
  return windows[number].first + windows[number].frames - windows[number + 1].first;
}

/**
 * Weight of each of a window's frames: it rises and falls where neighbours share them.
 * @param {Place[]} windows
 * @param {number} number
 */
function fade(windows, number) {
  const weight = new Float32Array(windows[number].frames).fill(1);
  if (number > 0) {
    const shared = sharedFrames(windows, number - 1);
    for (let k = 0; k < shared; k++) weight[k] = (k + 0.5) / shared;
  }
  if (number + 1 < windows.length) {
    const shared = sharedFrames(windows, number);
    for (let k = 0; k < shared; k++) weight[weight.length - 1 - k] *= (k + 0.5) / shared;
  }
  return weight;
}

/**
 * Values of all windows as those of the recording.
 * @param {Place[]} windows
 * @param {ArrayLike<number>[]} values of each window, frame by frame
 * @param {number} width values of a frame
 */
export function joined(windows, values, width) {
  const last = windows[windows.length - 1];
  const whole = new Float32Array((last.first + last.frames) * width);
  const weights = new Float32Array(last.first + last.frames).fill(1e-9);
  windows.forEach(({ first }, number) =>
    fade(windows, number).forEach((weight, frame) => {
      weights[first + frame] += weight;
      const from = frame * width;
      const to = (first + frame) * width;
      for (let k = 0; k < width; k++) whole[to + k] += weight * values[number][from + k];
    }),
  );
  weights.forEach((weight, frame) => {
    for (let k = frame * width; k < (frame + 1) * width; k++) whole[k] /= weight;
  });
  return whole;
}
