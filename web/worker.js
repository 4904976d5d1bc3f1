/** Runs the models, away from the page, which stays responsive. */

import { denoise } from "./denoising.js";
import { Model, threads } from "./graphs.js";
import { resample } from "./resampling.js";
import { separate } from "./separating.js";

/**
 * @typedef {{task: string, audio: Float32Array, sampleRate: number}} Request task: separate or denoise
 * @typedef {{name: string, samples: Float32Array, speaks: [number, number][]}} Estimate
 * @typedef {{original: Float32Array, sampleRate: number, estimates: Estimate[], warnings: string[], factor: number,
 *   threads: number}} Answer all at the model's rate
 */

/** @type {Map<string, Promise<Model>>} */
const models = new Map();

/** @param {string} task */
function load(task) {
  let model = models.get(task);
  if (!model) models.set(task, (model = Model.load(new URL(`./models/${task}/`, import.meta.url).href)));
  return model;
}

/** @param {Request} request */
async function run({ task, audio, sampleRate }) {
  postMessage({ stage: "loading" });
  const model = await load(task);
  const began = performance.now();
  const original = resample(audio, sampleRate, model.description.sample_rate);
  const tell = (/** @type {number} */ progress) => postMessage({ stage: task, progress });
  tell(0);
  /** @type {Estimate[]} */
  let estimates;
  /** @type {string[]} */
  let warnings = [];
  if (task === "denoise") {
    estimates = [{ name: "denoised", samples: await denoise(model, original, tell), speaks: [] }];
  } else {
    const separated = await separate(model, original, tell);
    warnings = separated.warnings;
    estimates = separated.speakers.map((speaker, k) => ({ name: `speaker${k + 1}`, ...speaker }));
  }
  const factor = (performance.now() - began) / 1000 / (audio.length / sampleRate);
  const rate = model.description.sample_rate;
  postMessage({ answer: { original, sampleRate: rate, estimates, warnings, factor, threads } });
}

addEventListener("message", ({ data }) => {
  run(data).catch((error) => postMessage({ error: error instanceof Error ? error.message : String(error) }));
});
