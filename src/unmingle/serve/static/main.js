/** Connects the parts of the page: files, jobs, the player, the live tab and the keyboard. */

import { about, follow, remove, ServerRecording, upload } from "./api.js";
import { find } from "./dom.js";
import { acceptDrops, wireRecording } from "./inputs.js";
import { JobList } from "./job_list.js";
import { listenToKeys, playByKey } from "./keyboard.js";
import { LiveTab } from "./live.js";
import { TrackPlayer } from "./track_player.js";

/** @typedef {import("./api.js").Job} Job */

const result = find("result", HTMLElement);
const live = new LiveTab();
const list = new JobList(find("jobs", HTMLElement), show, (job) => void discard(job));

/** @type {Job[]} */
let jobs = [];
/** Ids of uploads whose result is shown when it is ready. @type {Set<string>} */
const awaited = new Set();
/** @type {{id: string, player: TrackPlayer} | null} */
let shown = null;
/** @type {number | null} */
let uploadBytes = null;

/** @param {string} text empty: hide the message */
function say(text) {
  const message = find("message", HTMLElement);
  message.textContent = text;
  message.hidden = !text;
}

/** @param {Job} job */
function show(job) {
  hide();
  const player = new TrackPlayer(new ServerRecording(job));
  shown = { id: job.id, player };
  result.append(player);
  list.update(jobs, job.id);
}

function hide() {
  shown?.player.remove();
  shown = null;
}

/** @param {Job} job */
async function discard(job) {
  try {
    await remove(job.id);
  } catch (error) {
    say(String(error instanceof Error ? error.message : error));
  }
}

/** @param {Job[]} now */
function update(now) {
  jobs = now;
  if (shown && !jobs.some((job) => job.id === shown?.id)) hide();
  list.update(jobs, shown?.id ?? null);
  for (const job of jobs) {
    if (!awaited.has(job.id) || !job.result) continue;
    awaited.delete(job.id);
    if (!shown || !shown.player.player.playing) show(job);
  }
}

/**
 * @param {Blob} file
 * @param {string} name
 */
async function send(file, name) {
  say("");
  const form = new FormData(find("options", HTMLFormElement));
  const task = String(form.get("task"));
  const control = new AbortController();
  const entry = list.addUpload(name, task, () => control.abort());
  if (uploadBytes !== null && file.size > uploadBytes) {
    entry.fail(`${name} is larger than ${Math.round(uploadBytes / 2 ** 20)} MB, the limit of this server.`);
    return;
  }
  entry.progress(0);
  try {
    const speakers = task === "denoise" ? "" : String(form.get("speakers"));
    const options = { name, task, speakers, strength: String(form.get("strength")) };
    const job = await upload(file, options, entry.progress, control.signal);
    entry.remove();
    awaited.add(job.id);
    update([...jobs.filter((each) => each.id !== job.id), jobs.find((each) => each.id === job.id) ?? job]);
  } catch (error) {
    if (control.signal.aborted) entry.remove();
    else entry.fail(error instanceof Error ? error.message : String(error));
  }
}

/** @param {FileList | null | undefined} files */
async function sendAll(files) {
  // One after the other, so that the uploads do not share a slow connection.
  for (const file of [...(files ?? [])]) await send(file, file.name);
}

function wireFiles() {
  const choose = find("choose", HTMLInputElement);
  choose.addEventListener("change", () => {
    void sendAll(choose.files).then(() => (choose.value = ""));
  });
  acceptDrops((files) => void sendAll(files));
  const options = find("options", HTMLFormElement);
  options.addEventListener("change", () => {
    const task = new FormData(options).get("task");
    find("speakers", HTMLElement).hidden = task === "denoise";
    find("strength", HTMLElement).hidden = task === "separate";
  });
}

function wireTabs() {
  const tabs = ["files", "live"];
  for (const tab of tabs) {
    find(`tab-${tab}`, HTMLButtonElement).addEventListener("click", () => {
      for (const each of tabs) {
        find(`tab-${each}`, HTMLButtonElement).setAttribute("aria-selected", String(each === tab));
        find(each, HTMLElement).hidden = find(`${each}-keys`, HTMLElement).hidden = each !== tab;
      }
      shown?.player.player.pause();
      if (live.running) live.stop("stopped");
    });
  }
}

/** @param {string} key */
function onKey(key) {
  if (find("live", HTMLElement).hidden) return shown !== null && playByKey(key, shown.player);
  if (key === " ") void live.toggle();
  else if (/^[0-9]$/.test(key)) live.hear(Number(key));
  else return false;
  return true;
}

async function start() {
  wireFiles();
  wireRecording((recording) => {
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
    void send(recording, `microphone ${time}.wav`);
  }, say);
  wireTabs();
  listenToKeys(onKey);
  follow(update, (connected) => {
    if (!connected) say("The server cannot be reached; is it still running?");
    else say("");
  });
  const { upload_bytes, recording_seconds } = await about();
  uploadBytes = upload_bytes;
  find("bounds", HTMLElement).textContent =
    `Any audio or video with sound, up to ${Math.round(upload_bytes / 2 ** 20)} MB and ` +
    `${Math.round(recording_seconds / 60)} minutes each.`;
}

start().catch((error) => say(error.message));
