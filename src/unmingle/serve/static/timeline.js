/** Pictures over time: a track's waveform and spectrogram, the ruler, and who speaks when. */

import { clock, make } from "./dom.js";
import { paint } from "./picture.js";

/**
 * @typedef {{start: number, end: number}} View in seconds
 * @typedef {import("./api.js").Recording} Recording
 * @typedef {import("./api.js").Track} Track
 * @typedef {import("./picture.js").Columns} Columns
 */

const FETCH_DELAY_MS = 80;
const LANE = 12;

/** The picture of one track, with a line at the play position. */
export class TrackPicture {
  /**
   * @param {Recording} recording
   * @param {Track} track
   */
  constructor(recording, track) {
    this._recording = recording;
    this._track = track;
    this._canvas = make("canvas");
    this._line = make("span", { class: "line" });
    this.element = make("div", { class: "picture" }, this._canvas, this._line);
    /** @type {Columns | null} */
    this._columns = null;
    /** @type {HTMLCanvasElement | null} */
    this._painted = null;
    /** @type {View} */
    this._view = { start: 0, end: 1 };
    this._peak = 1;
    this._timer = 0;
    this._requested = "";
  }

  /**
   * Show a section: at once from the columns at hand, and sharp when the new columns arrive.
   * @param {View} view
   */
  show(view) {
    this._view = view;
    fit(this._canvas);
    if (this._painted) this._draw();
    else this.repaint();
    clearTimeout(this._timer);
    this._timer = window.setTimeout(() => void this._fetch(), FETCH_DELAY_MS);
  }

  /** Repaint in new colours. */
  repaint() {
    const columns = this._columns;
    this._painted = null;
    // In a hidden tab the canvas has no height. It is painted when it is shown.
    if (!columns || this._canvas.height === 0) return;
    this._painted = paint(columns, this._canvas.height, getComputedStyle(this.element).color, this._peak);
    this._draw();
  }

  /** @param {number} share play position as a share of the picture's width */
  mark(share) {
    this._line.hidden = share < 0 || share > 1;
    this._line.style.left = `${100 * share}%`;
  }

  async _fetch() {
    const width = Math.min(this._canvas.width, 2048);
    if (width === 0) return;
    const rate = this._recording.sampleRate;
    const start = Math.floor(this._view.start * rate);
    const count = Math.max(1, Math.min(Math.round((this._view.end - this._view.start) * rate), this._recording.length));
    const requested = `${start} ${count} ${width} ${this._canvas.height}`;
    if (requested === this._requested) return;
    this._requested = requested;
    let columns;
    try {
      columns = await this._recording.picture(this._track, start, count, width);
    } catch {
      return; // The recording was deleted; the list of jobs shows it.
    }
    if (requested !== this._requested) return;
    if (!this._columns) this._peak = peakOf(columns);
    this._columns = columns;
    this.repaint();
  }

  _draw() {
    const context = /** @type {CanvasRenderingContext2D} */ (this._canvas.getContext("2d"));
    const { width, height } = this._canvas;
    context.clearRect(0, 0, width, height);
    if (!this._painted || !this._columns) return;
    const rate = this._recording.sampleRate;
    const scale = width / (this._view.end - this._view.start);
    const left = (this._columns.start / rate - this._view.start) * scale;
    context.drawImage(this._painted, left, 0, (this._columns.count / rate) * scale, height);
  }
}

/** Who speaks when, over the whole recording. A click seeks to that time. */
export class Timeline {
  /**
   * @param {Track[]} tracks
   * @param {number} duration in seconds
   * @param {(seconds: number) => void} onSeek
   */
  constructor(tracks, duration, onSeek) {
    this._duration = duration;
    this._canvas = make("canvas");
    this._line = make("span", { class: "line" });
    this._tracks = tracks.filter((track) => track.name.startsWith("speaker"));
    // These elements define the colours of the lanes by CSS, as in the rows.
    this._colours = this._tracks.map((track) => make("i", { class: track.name }));
    this.element = make("div", { class: "timeline" }, this._canvas, this._line, ...this._colours);
    this.element.style.height = `${LANE * Math.max(1, this._tracks.length) + 4}px`;
    this.element.addEventListener("pointerdown", (event) => {
      const box = this.element.getBoundingClientRect();
      onSeek(((event.clientX - box.left) / box.width) * duration);
    });
  }

  /** Number of speakers shown. */
  get lanes() {
    return this._tracks.length;
  }

  /** @param {View} view */
  draw(view) {
    const scale = fit(this._canvas);
    const context = /** @type {CanvasRenderingContext2D} */ (this._canvas.getContext("2d"));
    const width = this._canvas.width;
    const x = (/** @type {number} */ seconds) => (seconds / this._duration) * width;
    context.clearRect(0, 0, width, this._canvas.height);
    this._tracks.forEach((track, lane) => {
      context.fillStyle = getComputedStyle(this._colours[lane]).color;
      for (const [start, end] of track.speaks) {
        context.fillRect(x(start), (2 + LANE * lane + 2) * scale, Math.max(1, x(end) - x(start)), (LANE - 4) * scale);
      }
    });
    if (view.end - view.start < this._duration) {
      context.strokeStyle = getComputedStyle(this.element).color;
      context.lineWidth = scale;
      const left = x(view.start);
      context.strokeRect(left, scale / 2, Math.max(2, x(view.end) - left), this._canvas.height - scale);
    }
  }

  /** @param {number} share play position as a share of the recording */
  mark(share) {
    this._line.style.left = `${100 * share}%`;
  }
}

/**
 * Draw the time scale of the visible section.
 * @param {HTMLCanvasElement} canvas
 * @param {View} view
 */
export function ruler(canvas, view) {
  const scale = fit(canvas);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const { width, height } = canvas;
  const style = getComputedStyle(canvas);
  context.clearRect(0, 0, width, height);
  context.fillStyle = context.strokeStyle = style.color;
  context.font = `${11 * scale}px ${style.fontFamily}`;
  context.textBaseline = "middle";
  const length = view.end - view.start;
  const most = Math.max(2, width / (70 * scale));
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];
  const step = steps.find((each) => length / each <= most) ?? 3600;
  const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
  for (let k = Math.ceil(view.start / step); k * step <= view.end; k++) {
    const x = ((k * step - view.start) / length) * width;
    const text = clock(k * step, digits);
    if (x + context.measureText(text).width + 6 * scale >= width) break; // A mark without its time would say nothing.
    context.fillRect(Math.round(x), 0, Math.max(1, scale / 2), height);
    context.fillText(text, x + 4 * scale, height / 2);
  }
}

/**
 * Give a canvas the resolution of the screen.
 * @param {HTMLCanvasElement} canvas
 * @returns {number} pixels per CSS pixel
 */
function fit(canvas) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  return scale;
}

/** @param {Columns} columns */
function peakOf(columns) {
  let peak = 1e-4;
  for (let k = 0; k < columns.low.length; k++) peak = Math.max(peak, -columns.low[k], columns.high[k]);
  return peak;
}
