/**
 * Which window's source is which speaker, as `unmingle.separation.tracking` decides it for recordings.
 *
 * Masks that agree where windows overlap are one speaker's, and so are attractors that lie near each other. The result
 * is the likeliest path through the orders of all windows' sources, given where the speakers' attractors are; both are
 * found in turn.
 *
 * @typedef {{power: Float64Array[], attractors: number[][], agreement: number[][] | null}} WindowSources
 *   power: of each source in each frame; agreement: energy that each source of the window before (rows) shares with each
 *   of this one in the frames that both have, null for the first window
 */

const ITERATIONS = 10;
const DOUBT = 0.02;
const AUDIBLE = 1e-3;
const PRESENT = 1e-2;
const TIMES_AS_LIKELY = 20;

/** @param {ArrayLike<number>} values */
export function sum(values) {
  let total = 0;
  for (let k = 0; k < values.length; k++) total += values[k];
  return total;
}

/** @param {number} count */
const range = (count) => Array.from({ length: count }, (_, k) => k);

/**
 * The first of the largest.
 * @param {number[]} values
 */
const largest = (values) => values.indexOf(Math.max(...values));

/**
 * @param {WindowSources[]} windows in order; all with as many sources
 * @returns {{speakers: number[][], confidence: number}} for each window, the speaker of each source; and the share of
 *   the energy whose speaker is not in doubt
 */
export function assignSpeakers(windows) {
  const possible = orders(range(windows[0].power.length));
  const links = linksOf(windows, possible);
  const presence = windows.map(presenceOf);
  /** @type {{total: number, states: number[], margins: number[]} | null} */
  let best = null;
  const blind = windows.map(() => possible.map(() => 0));
  // By overlaps alone, and by the order in which attractors come.
  for (let states of [bestPath(blind, links).states, windows.map(() => 0)]) {
    /** @type {number[]} */
    let margins = [];
    for (let k = 0; k < ITERATIONS; k++) {
      const path = bestPath(fitsOf(windows, presence, states, possible), links);
      margins = path.margins;
      if (path.states.every((state, n) => state === states[n])) break;
      states = path.states;
    }
    const total = totalOf(fitsOf(windows, presence, states, possible), links, states);
    if (!best || total > best.total) best = { total, states, margins };
  }
  if (!best) throw new Error("There is no window.");
  const { states, margins } = best;
  const energy = windows.map((window) => sum(window.power.map(sum)));
  const sure = sum(energy.filter((_, n) => margins[n] > Math.log(TIMES_AS_LIKELY)));
  return { speakers: states.map((state) => possible[state]), confidence: sure / Math.max(sum(energy), 1e-30) };
}

/**
 * @param {number[]} items
 * @returns {number[][]} all orders of them
 */
export function orders(items) {
  if (items.length < 2) return [items];
  return items.flatMap((item) => orders(items.filter((other) => other !== item)).map((rest) => [item, ...rest]));
}

/**
 * Weight of each source's attractor, 0 to 1.
 * @param {WindowSources} window
 */
function presenceOf({ power }) {
  const energy = power.map(sum);
  const loudest = Math.max(...energy, 1e-30);
  return energy.map((own) => Math.min(own / loudest / (10 * PRESENT), 1));
}

/**
 * Log-likelihood of every pair of neighbouring windows' orders.
 * @param {WindowSources[]} windows
 * @param {number[][]} possible orders
 */
function linksOf(windows, possible) {
  const means = windows.map(({ power }) => sum(power.map(sum)) / power[0].length);
  const usual = (sum(means) / windows.length) * windows[0].power[0].length;
  return windows.slice(1).map(({ agreement }) => {
    const shared = agreement ?? [];
    const total = Math.max(sum(shared.map(sum)), 1e-30);
    // An overlap of far less energy than usual says little.
    const audible = Math.min(1, total / Math.max(AUDIBLE * usual, 1e-30));
    return possible.map((earlier) =>
      possible.map((later) => {
        let same = 0;
        shared.forEach((row, i) => row.forEach((value, j) => (same += earlier[i] === later[j] ? value : 0)));
        return audible * Math.log(DOUBT + ((1 - 2 * DOUBT) * same) / total);
      }),
    );
  });
}

/**
 * Log-likelihood of every window's orders, given where the speakers' attractors are.
 * @param {WindowSources[]} windows
 * @param {number[][]} presence
 * @param {number[]} states the order of each window
 * @param {number[][]} possible orders
 */
function fitsOf(windows, presence, states, possible) {
  const dimensions = windows[0].attractors[0].length;
  const centres = range(possible[0].length).map(() => new Array(dimensions).fill(0));
  const weights = centres.map(() => 0);
  windows.forEach(({ attractors }, n) =>
    possible[states[n]].forEach((speaker, source) => {
      weights[speaker] += presence[n][source];
      attractors[source].forEach((value, k) => (centres[speaker][k] += presence[n][source] * value));
    }),
  );
  centres.forEach((centre, speaker) => centre.forEach((_, k) => (centre[k] /= Math.max(weights[speaker], 1e-9))));
  // Of every window's sources from every speaker.
  const squared = windows.map(({ attractors }) =>
    attractors.map((point) => centres.map((centre) => sum(point.map((value, k) => (value - centre[k]) ** 2)))),
  );
  /** @param {number} n @param {number[]} order */
  const distance = (n, order) => sum(order.map((speaker, source) => presence[n][source] * squared[n][source][speaker]));
  const own = sum(states.map((state, n) => distance(n, possible[state])));
  const variance = Math.max(own / Math.max(sum(presence.map(sum)), 1e-9), 1e-9);
  return windows.map((_, n) => possible.map((order) => -distance(n, order) / (2 * variance)));
}

/**
 * The likeliest orders of all windows (Viterbi), and by how much each beats its best alternative.
 * @param {number[][]} fits
 * @param {number[][][]} links
 */
function bestPath(fits, links) {
  const forward = [fits[0]];
  links.forEach((link, n) => {
    forward.push(fits[n + 1].map((fit, j) => fit + Math.max(...forward[n].map((value, i) => value + link[i][j]))));
  });
  const backward = fits.map((row) => row.map(() => 0));
  for (let n = links.length - 1; n >= 0; n--) {
    const after = fits[n + 1].map((fit, j) => fit + backward[n + 1][j]);
    backward[n] = links[n].map((row) => Math.max(...row.map((link, j) => link + after[j])));
  }
  // The best path through each order of each window.
  const through = forward.map((row, n) => row.map((value, j) => value + backward[n][j]));
  const states = [largest(through[0])];
  links.forEach((link, n) => {
    states.push(largest(fits[n + 1].map((fit, j) => link[states[n]][j] + fit + backward[n + 1][j])));
  });
  const margins = through.map((row) => {
    const sorted = [...row].sort((a, b) => b - a);
    return sorted.length > 1 ? sorted[0] - sorted[1] : Infinity;
  });
  return { states, margins };
}

/**
 * @param {number[][]} fits
 * @param {number[][][]} links
 * @param {number[]} states
 */
function totalOf(fits, links, states) {
  return sum(states.map((state, n) => fits[n][state] + (n ? links[n - 1][states[n - 1]][state] : 0)));
}
