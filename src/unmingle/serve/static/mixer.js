/**
 * The gain of each track, from solo, mute and level; or the original alone, for comparison.
 *
 * @typedef {{solo: boolean, mute: boolean, decibels: number}} Strip
 */

export const LOWEST_DECIBELS = -30;

export class Mixer {
  /** @param {string[]} names of the tracks; one may be `original` */
  constructor(names) {
    this._names = names;
    /** @type {Strip[]} */
    this.strips = names.map(() => ({ solo: false, mute: false, decibels: 0 }));
    this.hearsOriginal = false;
  }

  /** The gain of every track. */
  get gains() {
    const estimates = this.strips.filter((_, track) => this._names[track] !== "original");
    const someSolo = estimates.some((strip) => strip.solo);
    return this.strips.map((strip, track) => {
      if ((this._names[track] === "original") !== this.hearsOriginal) return 0;
      if (strip.mute || (someSolo && !strip.solo && !this.hearsOriginal)) return 0;
      return strip.decibels <= LOWEST_DECIBELS ? 0 : 10 ** (strip.decibels / 20);
    });
  }

  /** @param {number} track */
  toggleSolo(track) {
    this.hearsOriginal = false;
    this.strips[track].solo = !this.strips[track].solo;
    // Solo clears mute.
    if (this.strips[track].solo) this.strips[track].mute = false;
  }

  /** @param {number} track */
  toggleMute(track) {
    this.strips[track].mute = !this.strips[track].mute;
  }
}
