/** Exported models in onnxruntime-web. */

import * as ort from "./ort/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
// Browsers give pages threads only if their server sends COOP and COEP.
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

export const threads = ort.env.wasm.numThreads;

/**
 * @param {Float32Array} data
 * @param {number[]} dims
 */
export const tensor = (data, dims) => new ort.Tensor("float32", data, dims);

/** A folder that `unmingle export` wrote. */
export class Model {
  /** @param {string} folder address that ends in a slash */
  static async load(folder) {
    const response = await fetch(`${folder}model.json`);
    if (!response.ok) throw new Error(`The model ${folder} is missing; build the page again with make web.`);
    const model = new Model(await response.json());
    for (const file of Object.keys(model.description.graphs)) {
      const name = file.replace(".onnx", "");
      model._sessions[name] = await ort.InferenceSession.create(`${folder}${file}`, { executionProviders: ["wasm"] });
    }
    return model;
  }

  /** @param {any} description the content of `model.json` */
  constructor(description) {
    this.description = description;
    /** @type {Record<string, any>} */
    this._sessions = {};
  }

  /**
   * Run a graph.
   * @param {string} graph without its suffix
   * @param {Record<string, any>} inputs tensors
   * @returns {Promise<Record<string, any>>} tensors
   */
  run(graph, inputs) {
    return this._sessions[graph].run(inputs);
  }

  /** The state of the running level before the first frame. */
  get noSums() {
    return new ort.Tensor("float64", new Float64Array(2), [2, 1]);
  }
}
