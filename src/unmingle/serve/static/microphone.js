/** The microphone, for recordings and live streams. */

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
  await context.audioWorklet.addModule("/static/worklet.js");
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

/**
 * One channel as a WAV file of 32-bit floats.
 * @param {Float32Array[]} blocks
 * @param {number} sampleRate
 */
function wavFile(blocks, sampleRate) {
  const bytes = 4 * blocks.reduce((sum, block) => sum + block.length, 0);
  const header = new DataView(new ArrayBuffer(44));
  const text = (/** @type {number} */ at, /** @type {string} */ value) =>
    [...value].forEach((letter, k) => header.setUint8(at + k, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 3, true); // IEEE float
  header.setUint16(22, 1, true);
  header.setUint32(24, sampleRate, true);
  header.setUint32(28, 4 * sampleRate, true);
  header.setUint16(32, 4, true);
  header.setUint16(34, 32, true);
  text(36, "data");
  header.setUint32(40, bytes, true);
  return new Blob([header, .../** @type {Float32Array<ArrayBuffer>[]} */ (blocks)], { type: "audio/wav" });
}
