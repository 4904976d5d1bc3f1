/** Runs on the audio thread: posts the microphone's samples, and plays what a live stream makes of them. */

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

/** Posts the microphone's samples as blocks, and plays a mix of the outputs that are posted back. */
class Live extends AudioWorkletProcessor {
  /** @param {{processorOptions: {outputs: number, lag: number}}} options lag of the model, in seconds */
  constructor({ processorOptions: { outputs, lag } }) {
    super();
    const length = Math.ceil(LONGEST_SECONDS * sampleRate);
    // The microphone, then the outputs: sample k of each is stored at k modulo the length.
    this.tracks = Array.from({ length: 1 + outputs }, () => new Float32Array(length));
    /** Left and right, for every track. @type {[number, number][]} */
    this.gains = this.tracks.map(() => [0, 0]);
    this.captured = this.received = this.played = 0;
    this.lag = lag + WAIT_SECONDS;
    this.waiting = true;
    this.nextReport = 0;
    this.blocks = new Blocks((block) => this.port.postMessage({ block }, [block.buffer]));
    this.port.onmessage = ({ data }) => {
      if (data instanceof Float32Array) this.receive(data);
      else this.gains = data.gains;
    };
  }

  /** @param {Float32Array} samples of all outputs, interleaved */
  receive(samples) {
    const outputs = this.tracks.length - 1;
    for (let k = 0; k < samples.length; k += outputs) {
      const place = this.received++ % this.tracks[0].length;
      for (let output = 0; output < outputs; output++) this.tracks[1 + output][place] = samples[k + output];
    }
  }

  /**
   * @param {Float32Array[][]} inputs
   * @param {Float32Array[][]} outputs
   */
  process(inputs, outputs) {
    const [left, right] = outputs[0];
    const input = inputs[0].length ? inputs[0][0] : new Float32Array(left.length);
    for (const sample of input) this.tracks[0][this.captured++ % this.tracks[0].length] = sample;
    this.blocks.add(input);
    this.hold(left.length);
    if (!this.waiting) this.play(left, right);
    this.report(input, left.length);
    return true;
  }

  /**
   * Keep the lag. Models give their outputs in bursts, so what is there to be played says little.
   * @param {number} count samples to be played next
   */
  hold(count) {
    const wanted = this.captured - Math.round(this.lag * sampleRate);
    // After a delay the lag must shrink again: samples that are too old are skipped.
    if (wanted - this.played > SLACK_SECONDS * sampleRate && this.received >= wanted + count) this.played = wanted;
    const missing = this.received - this.played < count;
    // If samples come late, all that follow wait a little longer.
    if (missing && !this.waiting) this.lag = Math.min(this.lag + WAIT_SECONDS, LONGEST_SECONDS / 2);
    this.waiting = missing || (this.waiting && this.played > wanted);
  }

  /**
   * @param {Float32Array} left
   * @param {Float32Array} right
   */
  play(left, right) {
    for (let k = 0; k < left.length; k++) {
      const place = this.played++ % this.tracks[0].length;
      this.tracks.forEach((track, number) => {
        left[k] += this.gains[number][0] * track[place];
        right[k] += this.gains[number][1] * track[place];
      });
    }
  }

  /**
   * @param {Float32Array} input
   * @param {number} count samples that were played last
   */
  report(input, count) {
    if (this.captured < this.nextReport) return;
    this.nextReport = this.captured + REPORT_SECONDS * sampleRate;
    const lag = this.played ? (this.captured - this.played) / sampleRate : null;
    const levels = this.tracks.slice(1).map((track) => {
      const first = this.played - count;
      return level(Float32Array.from({ length: count }, (_, k) => (this.waiting ? 0 : track[(first + k) % track.length])));
    });
    this.port.postMessage({ lag, levels: [level(input), ...levels] });
  }
}

/** @param {Float32Array} samples */
function level(samples) {
  return 10 * Math.log10(samples.reduce((sum, sample) => sum + sample * sample, 1e-9) / samples.length);
}

registerProcessor("capture", Capture);
registerProcessor("live", Live);
