/** The list of recordings: state and progress of each, and buttons to cancel, show and remove it. */

import { clock, make } from "./dom.js";

/**
 * @typedef {import("./api.js").Job} Job
 * @typedef {{element: HTMLLIElement, title: HTMLElement, status: HTMLElement, bar: HTMLElement,
 *   show: HTMLButtonElement, remove: HTMLButtonElement}} Entry
 */

const TASKS = new Map([
  ["separate", "separate"],
  ["denoise", "remove noise"],
  ["both", "separate, remove noise"],
]);

export class JobList {
  /**
   * @param {HTMLElement} list
   * @param {(job: Job) => void} onShow
   * @param {(job: Job) => void} onRemove
   */
  constructor(list, onShow, onRemove) {
    this._list = list;
    this._onShow = onShow;
    this._onRemove = onRemove;
    /** @type {Map<string, Entry>} */
    this._entries = new Map();
  }

  /**
   * Show these jobs and no others.
   * @param {Job[]} jobs
   * @param {string | null} shown id of the job in the player
   */
  update(jobs, shown) {
    const ids = new Set(jobs.map((job) => job.id));
    for (const [id, entry] of this._entries) {
      if (ids.has(id)) continue;
      entry.element.remove();
      this._entries.delete(id);
    }
    for (const job of jobs.filter((each) => each.state !== "uploading")) {
      let entry = this._entries.get(job.id);
      if (!entry) {
        entry = makeEntry(job.name, TASKS.get(job.task) ?? job.task);
        this._entries.set(job.id, entry);
        this._list.append(entry.element);
      }
      entry.show.onclick = () => this._onShow(job);
      entry.remove.onclick = () => this._onRemove(job);
      describe(entry, job, job.id === shown);
    }
  }

  /**
   * An entry for a file that is being uploaded.
   * @param {string} name
   * @param {string} task
   * @param {() => void} onCancel
   * @returns {{progress: (share: number) => void, fail: (text: string) => void, remove: () => void}}
   */
  addUpload(name, task, onCancel) {
    const entry = makeEntry(name, TASKS.get(task) ?? task);
    this._list.append(entry.element);
    const remove = () => entry.element.remove();
    entry.show.hidden = true;
    entry.remove.onclick = onCancel;
    setText(entry.remove, "Cancel");
    return {
      progress: (share) => {
        setText(entry.status, `uploading, ${Math.floor(100 * share)} %`);
        fill(entry.bar, ["uploading"], "uploading", share);
      },
      fail: (text) => {
        fail(entry, text);
        entry.remove.onclick = remove;
      },
      remove,
    };
  }
}

/**
 * @param {string} name
 * @param {string} task
 * @returns {Entry}
 */
function makeEntry(name, task) {
  const title = make("span", { class: "name", title: name }, name);
  const status = make("span", { class: "status" });
  const bar = make("span", { class: "bar", role: "progressbar", "aria-label": `Progress of ${name}` });
  const show = make("button", { type: "button" }, "Show");
  const remove = make("button", { type: "button" }, "Cancel");
  const text = make("span", { class: "text" }, title, make("span", { class: "task" }, task), status, bar);
  return { element: make("li", {}, text, show, remove), title, status, bar, show, remove };
}

/**
 * @param {Entry} entry
 * @param {Job} job
 * @param {boolean} shown
 */
function describe(entry, job, shown) {
  const ended = job.state === "done" || job.state === "failed";
  entry.element.dataset.state = job.state;
  entry.element.classList.toggle("shown", shown);
  entry.show.hidden = job.state !== "done";
  entry.show.disabled = shown;
  setText(entry.remove, ended ? "Remove" : "Cancel");
  if (job.state === "failed") {
    fail(entry, job.error ?? "The job failed.");
    return;
  }
  setText(entry.status, status(job));
  entry.bar.hidden = ended;
  fill(entry.bar, job.stages, job.stage, job.progress);
}

/** @param {Job} job */
function status(job) {
  if (job.result) {
    const speakers = job.result.tracks.length - 1;
    const what = job.task === "denoise" ? "cleaned" : speakers === 1 ? "1 speaker" : `${speakers} speakers`;
    const { confidence, seconds } = job.result;
    const sure = confidence < 1 ? ` (${Math.round(100 * confidence)} % confidence)` : "";
    return `${what}${sure}, ${clock(seconds)}`;
  }
  if (job.state === "waiting") return job.jobs_ahead ? `waiting, ${job.jobs_ahead} before it` : "next";
  const number = job.stages.indexOf(job.stage ?? "") + 1;
  const share = job.progress === null ? "" : `, ${Math.floor(100 * job.progress)} %`;
  return `${job.stage}${share} (step ${number} of ${job.stages.length})`;
}

/**
 * One segment per stage. Finished segments are full; the current one shows its progress, or moves if it is not known.
 * @param {HTMLElement} bar
 * @param {string[]} stages
 * @param {string | null} stage
 * @param {number | null} progress
 */
function fill(bar, stages, stage, progress) {
  while (bar.children.length < stages.length) bar.append(make("span", {}, make("span")));
  const present = stage === null ? -1 : stages.indexOf(stage);
  stages.forEach((_, number) => {
    const segment = /** @type {HTMLElement} */ (bar.children[number]);
    const share = number < present ? 1 : number === present ? (progress ?? 0) : 0;
    segment.classList.toggle("moving", number === present && progress === null);
    /** @type {HTMLElement} */ (segment.firstElementChild).style.width = `${100 * share}%`;
  });
  bar.setAttribute("aria-valuetext", stage ?? "waiting");
}

/**
 * @param {Entry} entry
 * @param {string} text
 */
function fail(entry, text) {
  entry.element.dataset.state = "failed";
  setText(entry.status, text);
  entry.bar.hidden = true;
  entry.show.hidden = true;
  setText(entry.remove, "Remove");
}

/**
 * @param {HTMLElement} element
 * @param {string} text
 */
function setText(element, text) {
  // Screen readers read a live region aloud whenever its text is set, even to the same text.
  if (element.textContent !== text) element.textContent = text;
}
