/** The microphone, for recordings and live streams. */

import { wavFile } from "./wav.js";

/**
 * @returns {Promise<{context: AudioContext, source: MediaStreamAudioSourceNode, close: () => void}>}
 */
export async function openMicrophone() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers allow the microphone only on localhost or over https; open the page there.");
  }
  // The browser's own speech processing would act before the model, so it is off.
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch {
    throw new Error("The microphone cannot be used; allow it in the browser, and check that one is connected.");
  }
  const context = new AudioContext({ latencyHint: "interactive" });
  await context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
  const source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
  return {
    context,
    source,
    close: () => {
      stream.getTracks().forEach((track) => track.stop());
      void context.close();
    },
  };
}

/** Records until it is stopped. */
export class Recorder {
  static async start() {
    return new Recorder(await openMicrophone());
  }

  /** @param {Awaited<ReturnType<typeof openMicrophone>>} microphone */
  constructor(microphone) {
    this._microphone = microphone;
    /** @type {Float32Array[]} */
    this._blocks = [];
    const node = new AudioWorkletNode(microphone.context, "capture");
    node.port.onmessage = ({ data }) => this._blocks.push(data);
    microphone.source.connect(node).connect(microphone.context.destination);
  }

  /** Seconds so far. */
  get seconds() {
    const samples = this._blocks.reduce((sum, block) => sum + block.length, 0);
    return samples / this._microphone.context.sampleRate;
  }

  /** @returns {Blob} a WAV file */
  stop() {
    this._microphone.close();
    return wavFile(this._blocks, this._microphone.context.sampleRate);
  }
}
