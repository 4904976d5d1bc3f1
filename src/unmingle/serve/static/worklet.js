/** Runs on the audio thread: posts the microphone's samples, and plays the denoised ones. */

const BLOCK = 512;
const LONGEST_SECONDS = 20;
const WAIT_SECONDS = 0.06;
const SLACK_SECONDS = 0.15;
const REPORT_SECONDS = 0.25;

/** Collects samples and posts them in blocks. */
class Blocks {
  /** @param {(block: Float32Array) => void} post */
  constructor(post) {
    this.post = post;
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
  }

  /** @param {Float32Array} samples their number divides the block size */
  add(samples) {
    this.block.set(samples, this.filled);
    this.filled += samples.length;
    if (this.filled < BLOCK) return;
    this.post(this.block);
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
  }
}

/** Posts the microphone's samples as blocks; its output is silent. */
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.blocks = new Blocks((block) => this.port.postMessage(block, [block.buffer]));
  }

  /** @param {Float32Array[][]} inputs */
  process(inputs) {
    if (inputs[0].length) this.blocks.add(inputs[0][0]);
    return true;
  }
}

/** Posts the microphone's samples as blocks, and plays the denoised samples that are posted back. */
class Live extends AudioWorkletProcessor {
  constructor() {
    super();
    const length = Math.ceil(LONGEST_SECONDS * sampleRate);
    // Sample k of the microphone and denoised sample k are stored at k modulo the length.
    this.microphone = new Float32Array(length);
    this.cleaned = new Float32Array(length);
    this.captured = this.received = this.played = 0;
    this.waiting = true;
    this.original = false;
    this.nextReport = 0;
    this.blocks = new Blocks((block) => this.port.postMessage({ block }, [block.buffer]));
    this.port.onmessage = ({ data }) => {
      if (data instanceof Float32Array) this.receive(data);
      else this.original = data.original;
    };
  }

  /** @param {Float32Array} samples */
  receive(samples) {
    for (const sample of samples) this.cleaned[this.received++ % this.cleaned.length] = sample;
    const surplus = this.received - this.played - (WAIT_SECONDS + SLACK_SECONDS) * sampleRate;
    // After a delay the lag must shrink again: samples that are too old are skipped.
    if (surplus > 0) this.played = this.received - Math.round(WAIT_SECONDS * sampleRate);
  }

  /**
   * @param {Float32Array[][]} inputs
   * @param {Float32Array[][]} outputs
   */
  process(inputs, outputs) {
    const output = outputs[0][0];
    const input = inputs[0].length ? inputs[0][0] : new Float32Array(output.length);
    for (const sample of input) this.microphone[this.captured++ % this.microphone.length] = sample;
    this.blocks.add(input);
    const ready = this.received - this.played;
    if (this.waiting) this.waiting = ready < WAIT_SECONDS * sampleRate;
    else this.waiting = ready < output.length;
    if (!this.waiting) {
      const source = this.original ? this.microphone : this.cleaned;
      for (let k = 0; k < output.length; k++) output[k] = source[this.played++ % source.length];
    }
    this.report(input, output);
    return true;
  }

  /**
   * @param {Float32Array} input
   * @param {Float32Array} output
   */
  report(input, output) {
    if (this.captured < this.nextReport) return;
    this.nextReport = this.captured + REPORT_SECONDS * sampleRate;
    const lag = this.played ? (this.captured - this.played) / sampleRate : null;
    this.port.postMessage({ lag, waiting: this.waiting, input: level(input), output: level(output) });
  }
}

/** @param {Float32Array} samples */
function level(samples) {
  return 10 * Math.log10(samples.reduce((sum, sample) => sum + sample * sample, 1e-9) / samples.length);
}

registerProcessor("capture", Capture);
registerProcessor("live", Live);
