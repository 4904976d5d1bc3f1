/**
 * Plays the tracks of a recording in sync to the sample, at any length: chunks of all tracks are fetched in advance
 * and scheduled on one audio clock. Gains select the audible tracks, so switching makes no gap.
 *
 * @typedef {import("./api.js").Recording} Recording
 */

const CHUNK_SECONDS = 4;
const AHEAD_SECONDS = 6;
const START_SECONDS = 1.5;
const START_DELAY = 0.05;
const FADE_SECONDS = 0.005;
const CHUNKS_KEPT = 6;

export class Player {
  /** @param {Recording} recording */
  constructor(recording) {
    this.recording = recording;
    this.duration = recording.length / recording.sampleRate;
    this.playing = false;
    /** @type {(error: Error) => void} */
    this.onError = () => {};
    this._chunkLength = CHUNK_SECONDS * recording.sampleRate;
    this._position = 0;
    this._startTime = 0;
    this._nextChunk = 0;
    this._generation = 0;
    /** @type {Map<number, Promise<AudioBuffer[]>>} */
    this._chunks = new Map();
    /** @type {Set<AudioBufferSourceNode>} */
    this._sources = new Set();
    /** @type {AudioContext | null} */
    this._context = null;
    /** @type {GainNode[]} */
    this._gainNodes = [];
    this._gains = recording.tracks.map(() => 1);
    /** @type {AnalyserNode | null} */
    this._analyser = null;
    this._timer = 0;
  }

  /** Seconds into the recording. */
  get position() {
    if (!this.playing || !this._context) return this._position;
    const since = Math.max(0, this._context.currentTime - this._startTime);
    return Math.min(this._position + since, this.duration);
  }

  /** Level of the output now, in dB of full scale. */
  get level() {
    if (!this._analyser || !this.playing) return -Infinity;
    const samples = new Float32Array(this._analyser.fftSize);
    this._analyser.getFloatTimeDomainData(samples);
    return 10 * Math.log10(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
  }

  /** The current gain of every track. */
  get gains() {
    return this._gainNodes.length ? this._gainNodes.map((node) => node.gain.value) : [...this._gains];
  }

  /** @param {number[]} gains one per track */
  setGains(gains) {
    this._gains = gains;
    this._gainNodes.forEach((node, track) => {
      node.gain.setTargetAtTime(gains[track], this._context?.currentTime ?? 0, FADE_SECONDS);
    });
  }

  async play() {
    if (this.playing) return;
    this.playing = true;
    if (this._position >= this.duration) this._position = 0;
    const generation = ++this._generation;
    try {
      const context = this._open();
      await context.resume();
      const first = Math.round(this._position * this.recording.sampleRate);
      this._nextChunk = Math.floor(first / this._chunkLength);
      // Near the end of a chunk, wait for the next one too; otherwise it may arrive too late.
      const ready = (this._nextChunk + 1) * this._chunkLength - first;
      const next = (this._nextChunk + 1) * this._chunkLength < this.recording.length;
      const wanted = next && ready < START_SECONDS * this.recording.sampleRate ? [0, 1] : [0];
      await Promise.all(wanted.map((more) => this._chunk(this._nextChunk + more)));
      if (generation !== this._generation) return;
      // Start on the sample grid, so that chunks join without a click.
      const rate = context.sampleRate;
      this._startTime = Math.ceil((context.currentTime + START_DELAY) * rate) / rate;
      await this._schedule(generation, first);
      this._timer = window.setInterval(() => void this._schedule(generation, first), 250);
    } catch (error) {
      if (generation === this._generation) this._fail(error);
    }
  }

  pause() {
    if (!this.playing) return;
    this._position = this.position;
    this.playing = false;
    this._stop();
  }

  /** @param {number} seconds */
  seek(seconds) {
    const playing = this.playing;
    this.playing = false;
    this._stop();
    this._position = Math.min(Math.max(seconds, 0), this.duration);
    if (playing) void this.play();
  }

  close() {
    this.pause();
    this._chunks.clear();
    void this._context?.close();
    this._context = null;
  }

  _open() {
    if (this._context) return this._context;
    const context = new AudioContext({ sampleRate: this.recording.sampleRate });
    const analyser = new AnalyserNode(context, { fftSize: 2048 });
    analyser.connect(context.destination);
    this._gainNodes = this._gains.map((gain) => {
      const node = new GainNode(context, { gain });
      node.connect(analyser);
      return node;
    });
    this._analyser = analyser;
    return (this._context = context);
  }

  _stop() {
    this._generation += 1;
    clearInterval(this._timer);
    for (const source of this._sources) source.stop();
    this._sources.clear();
  }

  /** @param {unknown} error */
  _fail(error) {
    this.pause();
    this.onError(error instanceof Error ? error : new Error(String(error)));
  }

  /**
   * Schedule the chunks of the next seconds.
   * @param {number} generation number of this playback; it changes when another playback starts
   * @param {number} first sample that plays at `_startTime`
   */
  async _schedule(generation, first) {
    const context = this._context;
    if (!context || generation !== this._generation) return;
    if (this.position >= this.duration) {
      this.pause();
      this._position = 0;
      return;
    }
    const { sampleRate, length } = this.recording;
    while (this._nextChunk * this._chunkLength < length) {
      const number = this._nextChunk;
      const begins = Math.max(number * this._chunkLength, first);
      const time = this._startTime + (begins - first) / sampleRate;
      if (time > context.currentTime + AHEAD_SECONDS) return;
      this._nextChunk += 1;
      let buffers;
      try {
        buffers = await this._chunk(number);
      } catch (error) {
        if (generation === this._generation) this._fail(error);
        return;
      }
      if (generation !== this._generation) return;
      if (time < context.currentTime && number * this._chunkLength > first) {
        // The chunk came too late: continue from here, so that the tracks stay in sync.
        this.seek(begins / sampleRate);
        return;
      }
      buffers.forEach((buffer, track) => {
        const source = new AudioBufferSourceNode(context, { buffer });
        source.connect(this._gainNodes[track]);
        source.start(time, (begins - number * this._chunkLength) / sampleRate);
        this._sources.add(source);
        source.onended = () => this._sources.delete(source);
      });
    }
  }

  /**
   * @param {number} number
   * @returns {Promise<AudioBuffer[]>} one per track
   */
  _chunk(number) {
    let chunk = this._chunks.get(number);
    if (!chunk) {
      chunk = Promise.all(this.recording.tracks.map((track) => this._fetch(track, number)));
      chunk.catch(() => this._chunks.delete(number));
      this._chunks.set(number, chunk);
      const oldest = this._chunks.keys().next().value;
      if (this._chunks.size > CHUNKS_KEPT && oldest !== undefined) this._chunks.delete(oldest);
    }
    return chunk;
  }

  /**
   * @param {import("./api.js").Track} track
   * @param {number} number
   */
  async _fetch(track, number) {
    const channels = await this.recording.samples(track, number * this._chunkLength, this._chunkLength);
    const buffer = new AudioBuffer({
      length: channels[0].length,
      numberOfChannels: channels.length,
      sampleRate: this.recording.sampleRate,
    });
    channels.forEach((samples, channel) => buffer.copyToChannel(samples, channel));
    return buffer;
  }
}
