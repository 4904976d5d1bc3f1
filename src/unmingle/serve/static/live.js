/** The live tab: plays the microphone denoised or separated, and shows the measured lag. */

import { find, make } from "./dom.js";
import { openMicrophone } from "./microphone.js";

const MOST_WAITING_BYTES = 1 << 20;
const MOST_DELAY_SECONDS = 10;
const ALL = "all";
const ORIGINAL = "0";

/** @typedef {{lag_seconds: number, model: string, outputs: number}} Opening what the server says first */

export class LiveTab {
  constructor() {
    this._switch = find("live-switch", HTMLButtonElement);
    this._options = find("live-options", HTMLFormElement);
    this._hear = find("live-hear", HTMLFormElement);
    this._status = find("live-status", HTMLElement);
    this._lag = find("live-lag", HTMLElement);
    /** @type {null | (() => void)} */
    this._close = null;
    /** @type {AudioWorkletNode | null} */
    this._node = null;
    /** The microphone's, then the outputs'. @type {HTMLMeterElement[]} */
    this._meters = [];
    this._outputs = 1;
    this._switch.addEventListener("click", () => void this.toggle());
    this._options.addEventListener("change", () => this._offer());
    this._hear.addEventListener("change", () => this._mix());
    this._offer();
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

  /**
   * Hear a speaker or, with 0, the microphone; with the same number again, what was first among the choices.
   * @param {number} number
   */
  hear(number) {
    const choices = [...this._hear.querySelectorAll("input")];
    const chosen = choices.find((choice) => choice.value === String(number));
    if (!chosen) return;
    (chosen.checked ? choices[0] : chosen).checked = true;
    this._mix();
  }

  /** @param {string} status */
  stop(status) {
    this._close?.();
    this._close = this._node = null;
    this._status.textContent = status;
    this._switch.textContent = "Start";
    this._lag.textContent = "none yet";
    this._lock(false);
    for (const meter of this._meters) meter.value = -60;
  }

  /** @param {boolean} running what a stream does cannot change while it runs */
  _lock(running) {
    for (const control of this._options.elements) control.toggleAttribute("disabled", running);
  }

  /** Show the choices and meters that go with the task. */
  _offer() {
    const form = new FormData(this._options);
    const separate = form.get("task") === "separate";
    for (const label of this._options.querySelectorAll(".option")) /** @type {HTMLElement} */ (label).hidden = !separate;
    this._outputs = separate ? Number(form.get("speakers")) : 1;
    const names = Array.from({ length: this._outputs }, (_, k) => (separate ? `Speaker ${k + 1}` : "Cleaned"));
    /** @type {[string, string][]} */
    const choices = names.map((name, k) => [String(k + 1), name]);
    if (separate) choices.unshift([ALL, this._outputs === 2 ? "1 left, 2 right" : "All, left to right"]);
    choices.push([ORIGINAL, "Original"]);
    this._hear.replaceChildren(
      make("span", {}, "You hear"),
      make(
        "fieldset",
        { class: "choice", "aria-label": "What you hear" },
        ...choices.map(([value, name], k) =>
          make("label", {}, make("input", { type: "radio", name: "hear", value, checked: k === 0 }), make("span", {}, name)),
        ),
      ),
    );
    this._meters = ["Microphone", ...names].map((name) =>
      make("meter", { min: "-60", max: "0", low: "-50", value: "-60", "aria-label": `Level of ${name}` }),
    );
    find("live-levels", HTMLElement).replaceChildren(
      ...["Microphone", ...names].flatMap((name, track) => [
        make("dt", track && separate ? { class: `speaker${track}` } : {}, name),
        make("dd", {}, this._meters[track]),
      ]),
    );
  }

  /** Play what is chosen. */
  _mix() {
    const choice = String(new FormData(this._hear).get("hear"));
    this._node?.port.postMessage({ gains: gainsOf(choice, this._outputs) });
  }

  async _start() {
    this._status.textContent = "opening the microphone …";
    const form = new FormData(this._options);
    const query = new URLSearchParams([...form].map(([name, value]) => [name, String(value)]));
    this._lock(true);
    const { context, source, close } = await openMicrophone();
    query.set("sample_rate", String(context.sampleRate));
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/live?${query}`);
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
      this._node = this._connect(context, source, socket, message);
      this._mix();
      this._status.textContent = `${query.get("task") === "separate" ? "separating" : "cleaning"} with ${message.model}`;
    };
  }

  /**
   * @param {AudioContext} context
   * @param {AudioNode} source
   * @param {WebSocket} socket
   * @param {Opening} opening
   */
  _connect(context, source, socket, { lag_seconds: lag, outputs }) {
    const processorOptions = { outputs, lag };
    const node = new AudioWorkletNode(context, "live", { outputChannelCount: [2], processorOptions });
    node.port.onmessage = ({ data }) => {
      const late = !data.block && data.lag > lag + MOST_DELAY_SECONDS;
      if (late || socket.bufferedAmount > MOST_WAITING_BYTES) {
        const advice = outputs > 1 ? "; a longer look-ahead is less work" : "";
        this.stop(`stopped: the server cannot keep up${advice}`);
      } else if (data.block) socket.send(data.block);
      else this._show(data, lag, context);
    };
    source.connect(node).connect(context.destination);
    return node;
  }

  /**
   * @param {{lag: number | null, levels: number[]}} report
   * @param {number} modelLag in seconds
   * @param {AudioContext} context
   */
  _show(report, modelLag, context) {
    this._meters.forEach((meter, track) => (meter.value = report.levels[track]));
    if (report.lag === null) return;
    // The latency of the sound card is known only for its output.
    const output = context.baseLatency + (context.outputLatency || 0);
    const ms = (/** @type {number} */ seconds) => Math.round(1000 * seconds);
    this._lag.textContent =
      `${ms(report.lag + output)} ms, of which the model needs ${ms(modelLag)} and the loudspeaker ${ms(output)}`;
  }
}

/**
 * Gains of the left and the right channel, for the microphone and every output.
 * @param {string} choice the number of a track, or all outputs from left to right
 * @param {number} outputs
 * @returns {[number, number][]}
 */
function gainsOf(choice, outputs) {
  return Array.from({ length: 1 + outputs }, (_, track) => {
    if (choice !== ALL) return track === Number(choice) ? [1, 1] : [0, 0];
    const angle = ((track - 1) / (outputs - 1)) * (Math.PI / 2);
    return track === 0 ? [0, 0] : [Math.cos(angle), Math.sin(angle)];
  });
}
