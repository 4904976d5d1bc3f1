/** Wires the page together: a recording in, the model in a worker, the player. */

import { decode } from "./decoding.js";
import { clock, find, make } from "./dom.js";
import { acceptDrops, wireRecording } from "./inputs.js";
import { listenToKeys, playByKey } from "./keyboard.js";
import { LocalRecording } from "./local_recording.js";
import { TrackPlayer } from "./track_player.js";

/** @type {Worker | null} */
let worker = null;
/** @type {{player: TrackPlayer, recording: LocalRecording} | null} */
let shown = null;

/** @param {string} text empty: nothing to say */
function say(text) {
  const message = find("message", HTMLElement);
  message.textContent = text;
  message.hidden = !text;
}

/** The recording that is worked on, in the list. */
class Entry {
  /** @param {string} name */
  constructor(name) {
    this._status = make("span", { class: "status" }, "decoding");
    this._fill = make("span");
    this._bar = make("span", { class: "bar", role: "progressbar", "aria-label": `Progress of ${name}` }, make("span", {}, this._fill));
    this._cancel = make("button", { type: "button", click: () => this._stop() }, "Cancel");
    this.element = make("li", {}, make("span", { class: "text" }, make("span", { class: "name" }, name), this._status, this._bar), this._cancel);
  }

  _stop() {
    worker?.terminate();
    worker = null;
    this.element.remove();
  }

  /**
   * @param {string} stage
   * @param {number | undefined} share
   */
  progress(stage, share) {
    this._status.textContent = share === undefined ? stage : `${stage}, ${Math.floor(100 * share)} %`;
    this._bar.firstElementChild?.classList.toggle("moving", share === undefined);
    this._fill.style.width = `${100 * (share ?? 0)}%`;
  }

  /** @param {string} text */
  end(text, failed = false) {
    this._status.textContent = text;
    this._bar.hidden = this._cancel.hidden = true;
    if (failed) this.element.dataset.state = "failed";
  }
}

/**
 * @param {import("./worker.js").Request} request
 * @param {Entry} entry
 * @returns {Promise<import("./worker.js").Answer>}
 */
function process(request, entry) {
  const running = (worker ??= new Worker(new URL("./worker.js", import.meta.url), { type: "module" }));
  return new Promise((resolve, reject) => {
    running.onmessage = ({ data }) => {
      if (data.error) reject(new Error(data.error));
      else if (data.answer) resolve(data.answer);
      else entry.progress(data.stage, data.progress);
    };
    running.onerror = (event) => reject(new Error(event.message || "The models could not be started."));
    running.postMessage(request);
  });
}

/**
 * @param {Blob} file
 * @param {string} name
 */
async function take(file, name) {
  say("");
  const task = String(new FormData(find("options", HTMLFormElement)).get("task"));
  worker?.terminate(); // What is at work has been given up for this one.
  worker = null;
  const entry = new Entry(name);
  find("jobs", HTMLElement).replaceChildren(entry.element);
  try {
    const decoded = await decode(file, name);
    if (!entry.element.isConnected) return; // Cancelled, or given up for another.
    const { original, sampleRate, estimates, warnings, factor, threads } = await process({ task, ...decoded }, entry);
    const cores = threads === 1 ? "one thread" : `${threads} threads`;
    entry.end(`${clock(original.length / sampleRate)}, real-time factor ${factor.toFixed(3)} (${cores})`);
    show(new LocalRecording(name, sampleRate, original, estimates, warnings));
  } catch (error) {
    entry.end(error instanceof Error ? error.message : String(error), true);
  }
}

/** @param {LocalRecording} recording */
function show(recording) {
  shown?.player.remove();
  shown?.recording.close();
  shown = { recording, player: new TrackPlayer(recording) };
  find("result", HTMLElement).append(shown.player);
}

function wireFiles() {
  const choose = find("choose", HTMLInputElement);
  const takeFirst = (/** @type {FileList | null | undefined} */ files) => {
    const file = files?.[0];
    if (file) void take(file, file.name);
  };
  choose.addEventListener("change", () => {
    takeFirst(choose.files);
    choose.value = "";
  });
  acceptDrops(takeFirst);
}

wireFiles();
wireRecording((recording) => void take(recording, "microphone.wav"), say);
listenToKeys((key) => shown !== null && playByKey(key, shown.player));
