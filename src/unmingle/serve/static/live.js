/** The live tab: plays the microphone denoised, and shows the measured lag. */

import { find } from "./dom.js";
import { openMicrophone } from "./microphone.js";

const MOST_WAITING_BYTES = 1 << 20;

export class LiveTab {
  constructor() {
    this._switch = find("live-switch", HTMLButtonElement);
    this._compare = find("live-compare", HTMLButtonElement);
    this._status = find("live-status", HTMLElement);
    this._lag = find("live-lag", HTMLElement);
    /** @type {null | (() => void)} */
    this._close = null;
    /** @type {AudioWorkletNode | null} */
    this._node = null;
    this._switch.addEventListener("click", () => void this.toggle());
    this._compare.addEventListener("click", () => this.compare());
  }

  get running() {
    return this._close !== null;
  }

  async toggle() {
    if (this.running) {
      this.stop("stopped");
      return;
    }
    this._switch.disabled = true;
    try {
      await this._start();
    } catch (error) {
      this.stop(error instanceof Error ? error.message : String(error));
    }
    this._switch.disabled = false;
  }

  /** Switch between the denoised sound and the microphone, both with the same lag. */
  compare() {
    if (!this._node) return;
    const original = this._compare.getAttribute("aria-pressed") !== "true";
    this._compare.setAttribute("aria-pressed", String(original));
    this._node.port.postMessage({ original });
  }

  /** @param {string} status */
  stop(status) {
    this._close?.();
    this._close = this._node = null;
    this._status.textContent = status;
    this._switch.textContent = "Start";
    this._compare.disabled = true;
    this._compare.setAttribute("aria-pressed", "false");
    this._lag.textContent = "none yet";
    for (const id of ["live-in", "live-out"]) find(id, HTMLMeterElement).value = -60;
  }

  async _start() {
    this._status.textContent = "opening the microphone …";
    const { context, source, close } = await openMicrophone();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/live?sample_rate=${context.sampleRate}`);
    socket.binaryType = "arraybuffer";
    this._close = () => {
      if (this._node) this._node.port.onmessage = null;
      socket.onclose = socket.onmessage = null;
      socket.close();
      close();
    };
    this._switch.textContent = "Stop";
    this._status.textContent = "loading the model …";
    socket.onclose = () => this.stop("the server ended the stream");
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) {
        this._node?.port.postMessage(new Float32Array(data));
        return;
      }
      const message = JSON.parse(data);
      if (message.error) {
        this.stop(message.error);
        return;
      }
      // The microphone is connected only now, so that no samples queue up while the model loads.
      this._node = this._connect(context, source, socket, message.lag_seconds);
      this._status.textContent = `cleaning with ${message.model}`;
      this._compare.disabled = false;
    };
  }

  /**
   * @param {AudioContext} context
   * @param {AudioNode} source
   * @param {WebSocket} socket
   * @param {number} modelLag in seconds
   */
  _connect(context, source, socket, modelLag) {
    const node = new AudioWorkletNode(context, "live", { outputChannelCount: [1] });
    node.port.onmessage = ({ data }) => {
      if (!data.block) this._show(data, modelLag, context);
      else if (socket.bufferedAmount < MOST_WAITING_BYTES) socket.send(data.block);
      else this.stop("stopped: the server is too slow");
    };
    source.connect(node).connect(context.destination);
    return node;
  }

  /**
   * @param {{lag: number | null, input: number, output: number}} report
   * @param {number} modelLag in seconds
   * @param {AudioContext} context
   */
  _show(report, modelLag, context) {
    find("live-in", HTMLMeterElement).value = report.input;
    find("live-out", HTMLMeterElement).value = report.output;
    if (report.lag === null) return;
    // The latency of the sound card is known only for its output.
    const output = context.baseLatency + (context.outputLatency || 0);
    const ms = (/** @type {number} */ seconds) => Math.round(1000 * seconds);
    this._lag.textContent =
      `${ms(report.lag + output)} ms, of which the model needs ${ms(modelLag)} and the loudspeaker ${ms(output)}`;
  }
}
