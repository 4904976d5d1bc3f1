/**
 * The JSON API; docs/serve.md describes it.
 *
 * @typedef {{name: string, channels: number, speaks: [number, number][]}} Track
 * @typedef {{sample_rate: number, samples: number, seconds: number, confidence: number, formats: string[], warnings: string[],
 *   tracks: Track[]}} Result
 * @typedef {{id: string, name: string, task: string, state: string, jobs_ahead: number | null, stages: string[],
 *   stage: string | null, progress: number | null, error: string | null, result: Result | null}} Job
 * @typedef {{name: string, sampleRate: number, length: number, tracks: Track[], formats: string[], warnings: string[],
 *   samples(track: Track, start: number, count: number): Promise<Float32Array<ArrayBuffer>[]>,
 *   picture(track: Track, start: number, count: number, width: number): Promise<import("./picture.js").Columns>,
 *   fileAddress(track: Track, format: string): string, fileName(track: Track, format: string): string,
 *   archiveAddress(format: string): string, archiveName(format: string): string}} Recording as the player wants it
 * @typedef {{upload_bytes: number, recording_seconds: number}} About
 */

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
async function request(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(await reason(response.status, await response.text()));
  return response;
}

/**
 * @param {number} status
 * @param {string} body
 */
function reason(status, body) {
  try {
    return JSON.parse(body).error;
  } catch {
    return status ? `The server answered ${status}.` : "The server cannot be reached; is it still running?";
  }
}

/** @returns {Promise<About>} */
export async function about() {
  return (await request("/api")).json();
}

/**
 * Follow this browser's jobs.
 * @param {(jobs: Job[]) => void} onJobs called with all of them, now and whenever something changes
 * @param {(connected: boolean) => void} onConnection
 */
export function follow(onJobs, onConnection) {
  const events = new EventSource("/api/events");
  events.onmessage = (event) => onJobs(JSON.parse(event.data));
  events.onopen = () => onConnection(true);
  events.onerror = () => onConnection(false);
}

/**
 * Upload a recording. `XMLHttpRequest`, because `fetch` does not report upload progress.
 * @param {Blob} file
 * @param {{name: string, task: string, speakers: string, strength: string}} options
 * @param {(share: number) => void} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<Job>}
 */
export function upload(file, options, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const sender = new XMLHttpRequest();
    sender.open("POST", `/api/jobs?${new URLSearchParams(options)}`);
    sender.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    sender.onload = () => {
      if (sender.status === 201) resolve(JSON.parse(sender.responseText));
      else reject(new Error(reason(sender.status, sender.responseText)));
    };
    sender.onerror = () => reject(new Error(reason(0, "")));
    sender.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => sender.abort());
    sender.send(file);
  });
}

/** @param {string} id */
export async function remove(id) {
  await request(`/api/jobs/${id}`, { method: "DELETE" });
}

/** A finished job as a {@link Recording}. */
export class ServerRecording {
  /** @param {Job} job done */
  constructor(job) {
    if (!job.result) throw new Error(`${job.name} is not done.`);
    this.address = `/api/jobs/${job.id}`;
    this.name = job.name;
    this.sampleRate = job.result.sample_rate;
    this.length = job.result.samples;
    this.tracks = job.result.tracks;
    this.formats = job.result.formats;
    this.warnings = job.result.warnings;
  }

  /**
   * A section of a track.
   * @param {Track} track
   * @param {number} start first sample
   * @param {number} count samples; the end of the track has fewer
   * @returns {Promise<Float32Array<ArrayBuffer>[]>} one per channel
   */
  async samples(track, start, count) {
    const path = `${this.address}/tracks/${track.name}/samples?start=${start}&count=${count}`;
    const values = new Float32Array(await (await request(path)).arrayBuffer());
    if (track.channels === 1) return [values];
    const length = values.length / track.channels;
    return Array.from({ length: track.channels }, (_, channel) =>
      Float32Array.from({ length }, (_, k) => values[k * track.channels + channel]),
    );
  }

  /**
   * A section of a track as columns to draw.
   * @param {Track} track
   * @param {number} start first sample
   * @param {number} count samples
   * @param {number} width columns
   * @returns {Promise<import("./picture.js").Columns>}
   */
  async picture(track, start, count, width) {
    const path = `${this.address}/tracks/${track.name}/picture?start=${start}&count=${count}&width=${width}`;
    const data = await (await request(path)).arrayBuffer();
    return {
      start,
      count,
      low: new Float32Array(data, 0, width),
      high: new Float32Array(data, 4 * width, width),
      shades: new Uint8Array(data, 8 * width),
    };
  }

  /**
   * @param {Track} track
   * @param {string} format
   */
  fileAddress(track, format) {
    return `${this.address}/outputs/${track.name}.${format}`;
  }

  /**
   * The server says what the file is called.
   * @param {Track} _track
   * @param {string} _format
   */
  fileName(_track, _format) {
    return "";
  }

  /** @param {string} _format */
  archiveName(_format) {
    return "";
  }

  /** @param {string} format */
  archiveAddress(format) {
    return `${this.address}/outputs.zip?format=${format}`;
  }
}
