/** The player: one row per track with its picture and controls, all in sync. */

import { clock, make } from "./dom.js";
import { LOWEST_DECIBELS, Mixer } from "./mixer.js";
import { Player } from "./player.js";
import { Timeline, TrackPicture, ruler } from "./timeline.js";

/**
 * @typedef {import("./api.js").Recording} Recording
 * @typedef {import("./api.js").Track} Track
 */

const FORMATS = ["wav", "flac", "mp3"];
const LEAST_SECONDS = 0.05;
const STEP_SECONDS = 5;

export class TrackPlayer extends HTMLElement {
  /** @param {Recording} recording */
  constructor(recording) {
    super();
    this.recording = recording;
    this.player = new Player(recording);
    this.mixer = new Mixer(recording.tracks.map((track) => track.name));
    /** The visible section, in seconds. */
    this.view = { start: 0, end: this.player.duration };
    this.player.onError = (error) => this._say(error.message);
    this._frame = 0;
    const { tracks, formats } = recording;
    this._play = make("button", { type: "button", class: "primary play", click: () => this.toggle() }, "Play");
    this._time = make("output", { class: "time", "aria-label": "Position" });
    this._meter = make("meter", { min: "-60", max: "0", low: "-50", value: "-60", "aria-label": "Level" });
    this._compare = make(
      "button",
      { type: "button", "aria-pressed": "false", click: () => this.compare() },
      "Hear the original",
    );
    this._format = make(
      "select",
      { "aria-label": "Format of downloads", change: () => this._linkDownloads() },
      ...FORMATS.filter((each) => formats.includes(each)).map((each) =>
        make("option", { value: each }, each.toUpperCase()),
      ),
    );
    this._all = make("a", { class: "button", download: true }, "Download all");
    this._note = make("p", { class: "note", role: "alert", hidden: true });
    this._timeline = new Timeline(tracks, this.player.duration, (seconds) => this.seek(seconds, true));
    this._ruler = make("canvas", { class: "ruler", "aria-hidden": "true" });
    /** @type {TrackPicture[]} */
    this._pictures = [];
    this._strips = tracks.map((track, number) => this._makeStrip(track, number));
    this._assemble();
    this._linkDownloads();
    this._update();
  }

  connectedCallback() {
    this._observer = new ResizeObserver(() => this._redraw());
    this._observer.observe(this);
    this._colours = matchMedia("(prefers-color-scheme: dark)");
    this._repaint = () => this._pictures.forEach((picture) => picture.repaint());
    this._colours.addEventListener("change", this._repaint);
    const tick = () => {
      this._frame = requestAnimationFrame(tick);
      this._follow();
    };
    tick();
  }

  disconnectedCallback() {
    cancelAnimationFrame(this._frame);
    this._observer?.disconnect();
    if (this._repaint) this._colours?.removeEventListener("change", this._repaint);
    this.player.close();
  }

  _assemble() {
    const zoom = [
      make("button", { type: "button", "aria-label": "Zoom out", click: () => this.zoom(2) }, "−"),
      make("button", { type: "button", "aria-label": "Zoom in", click: () => this.zoom(0.5) }, "+"),
    ];
    const { name, warnings } = this.recording;
    this.append(
      make("h2", {}, name),
      ...warnings.map((warning) => make("p", { class: "note" }, `Note: ${warning}.`)),
      this._note,
      make(
        "div",
        { class: "toolbar" },
        make("span", { class: "group" }, this._play, this._time, this._meter),
        make("span", { class: "group" }, this._compare),
        make("span", { class: "group" }, ...zoom),
        make("span", { class: "group last" }, this._format, this._all),
      ),
      make("div", { class: "row" }, make("span", { class: "label" }, this._timeline.lanes ? "Who speaks when" : "Whole recording"), this._timeline.element),
      make("div", { class: "row" }, make("span", { class: "label" }), this._ruler),
      ...this._strips.map((strip) => strip.element),
    );
  }

  /**
   * @param {Track} track
   * @param {number} number
   */
  _makeStrip(track, number) {
    const isOriginal = track.name === "original";
    const title = titleOf(track);
    const button = (/** @type {string} */ label, /** @type {() => void} */ act) =>
      make("button", { type: "button", "aria-label": `${label} ${title}`, "aria-pressed": "false", click: act }, label);
    const solo = button("Solo", () => this.solo(number));
    const mute = button("Mute", () => this._change(() => this.mixer.toggleMute(number)));
    const level = make("input", {
      type: "range",
      min: String(LOWEST_DECIBELS),
      max: "12",
      step: "1",
      value: "0",
      "aria-label": `Level of ${title}`,
      input: () => this._change(() => (this.mixer.strips[number].decibels = Number(level.value))),
      dblclick: () => this._change(() => (level.value = String((this.mixer.strips[number].decibels = 0)))),
    });
    const decibels = make("output", { class: "decibels" });
    const download = make("a", { download: true, "aria-label": `Download ${title}` }, "Download");
    const picture = new TrackPicture(this.recording, track);
    picture.element.addEventListener("pointerdown", (event) => this._scrub(event, picture.element));
    picture.element.addEventListener("wheel", (event) => this._wheel(event, picture.element), { passive: false });
    this._pictures.push(picture);
    const controls = make(
      "div",
      { class: "controls" },
      make("strong", {}, title),
      make("span", { class: "buttons" }, ...(isOriginal ? [] : [solo]), mute),
      make("span", { class: "level" }, level, decibels),
      download,
    );
    const element = make("div", { class: `row track ${track.name}`, "data-track": track.name }, controls, picture.element);
    return { element, solo, mute, level, decibels, download };
  }

  toggle() {
    if (this.player.playing) this.player.pause();
    else void this.player.play();
  }

  /**
   * @param {number} seconds
   * @param {boolean} [centre] scroll the position into view
   */
  seek(seconds, centre = false) {
    this.player.seek(seconds);
    const length = this.view.end - this.view.start;
    if (centre && length < this.player.duration) this._setView(seconds - length / 2, length);
  }

  /** @param {number} direction */
  step(direction) {
    this.seek(this.player.position + direction * STEP_SECONDS);
  }

  /** @param {number} track */
  solo(track) {
    this._change(() => this.mixer.toggleSolo(track));
  }

  /**
   * Solo by a number key.
   * @param {number} speaker from 1
   */
  soloSpeaker(speaker) {
    const track = this.recording.tracks.findIndex((each) => each.name === `speaker${speaker}`);
    if (track >= 0) this.solo(track);
  }

  compare() {
    this._change(() => (this.mixer.hearsOriginal = !this.mixer.hearsOriginal));
  }

  /**
   * @param {number} factor
   * @param {number} [around] time in seconds that keeps its place
   */
  zoom(factor, around) {
    const { start, end } = this.view;
    const position = this.player.position;
    const fixed = around ?? (position >= start && position <= end ? position : (start + end) / 2);
    const length = Math.min(Math.max((end - start) * factor, LEAST_SECONDS), this.player.duration);
    this._setView(fixed - ((fixed - start) / (end - start)) * length, length);
  }

  /**
   * @param {number} start
   * @param {number} length
   */
  _setView(start, length) {
    const begin = Math.min(Math.max(start, 0), this.player.duration - length);
    this.view = { start: begin, end: begin + length };
    this._redraw();
  }

  /** @param {() => void} change */
  _change(change) {
    change();
    this._update();
  }

  _update() {
    const gains = this.mixer.gains;
    this.player.setGains(gains);
    this._compare.setAttribute("aria-pressed", String(this.mixer.hearsOriginal));
    this._strips.forEach(({ element, solo, mute, decibels }, track) => {
      const strip = this.mixer.strips[track];
      solo.setAttribute("aria-pressed", String(strip.solo));
      mute.setAttribute("aria-pressed", String(strip.mute));
      decibels.textContent = strip.decibels <= LOWEST_DECIBELS ? "off" : `${strip.decibels} dB`;
      element.classList.toggle("silent", gains[track] === 0);
    });
  }

  _linkDownloads() {
    const format = this._format.value;
    this._all.href = this.recording.archiveAddress(format);
    this._all.download = this.recording.archiveName(format);
    this._strips.forEach(({ download }, track) => {
      download.href = this.recording.fileAddress(this.recording.tracks[track], format);
      download.download = this.recording.fileName(this.recording.tracks[track], format);
    });
  }

  /** @param {string} text */
  _say(text) {
    this._note.textContent = text;
    this._note.hidden = false;
  }

  _redraw() {
    this._pictures.forEach((picture) => picture.show(this.view));
    ruler(this._ruler, this.view);
    this._timeline.draw(this.view);
  }

  /** Update the play position; called every frame. */
  _follow() {
    const { player, view } = this;
    const position = player.position;
    const text = `${clock(position, 1)} / ${clock(player.duration, 1)}`;
    if (this._time.textContent !== text) this._time.textContent = text;
    const label = player.playing ? "Pause" : "Play";
    if (this._play.textContent !== label) this._play.textContent = label;
    this._meter.value = Math.max(-60, player.level);
    const length = view.end - view.start;
    if (player.playing && length < player.duration && position > view.end) this._setView(position, length);
    const share = (position - this.view.start) / length;
    this._pictures.forEach((picture) => picture.mark(share));
    this._timeline.mark(position / player.duration);
  }

  /**
   * @param {{clientX: number}} event
   * @param {HTMLElement} element
   */
  _secondsAt(event, element) {
    const box = element.getBoundingClientRect();
    return this.view.start + ((event.clientX - box.left) / box.width) * (this.view.end - this.view.start);
  }

  /**
   * @param {PointerEvent} event
   * @param {HTMLElement} element
   */
  _scrub(event, element) {
    if (event.button !== 0) return;
    this.seek(this._secondsAt(event, element));
    if (event.pointerType === "touch") return; // A moving finger scrolls the page.
    element.setPointerCapture(event.pointerId);
    const move = (/** @type {PointerEvent} */ later) => this.seek(this._secondsAt(later, element));
    element.addEventListener("pointermove", move);
    element.addEventListener("lostpointercapture", () => element.removeEventListener("pointermove", move), {
      once: true,
    });
  }

  /**
   * @param {WheelEvent} event
   * @param {HTMLElement} element
   */
  _wheel(event, element) {
    const length = this.view.end - this.view.start;
    if (event.ctrlKey || event.metaKey) this.zoom(2 ** (event.deltaY / 200), this._secondsAt(event, element));
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      this._setView(this.view.start + (event.deltaX / element.clientWidth) * length, length);
    } else return;
    event.preventDefault();
  }
}

/** @param {Track} track */
function titleOf(track) {
  if (track.name === "original") return "Original";
  if (track.name === "denoised") return "Cleaned";
  return track.name.replace(/^speaker/, "Speaker ");
}

customElements.define("track-player", TrackPlayer);
