/** Ways to give the page a recording: files that are dropped, and the microphone. */

import { clock, find } from "./dom.js";
import { Recorder } from "./microphone.js";

/**
 * Files may be dropped anywhere in the window; the area `drop` lights up meanwhile.
 * @param {(files: FileList | null | undefined) => void} take
 */
export function acceptDrops(take) {
  const drop = find("drop", HTMLElement);
  for (const type of ["dragenter", "dragover"]) {
    window.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  window.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer?.files);
  });
}

/**
 * The button `record` starts a recording of the microphone, and ends it.
 * @param {(recording: Blob) => void} take the recording, as a WAV file
 * @param {(text: string) => void} say shows a message; empty: hides it
 */
export function wireRecording(take, say) {
  const button = find("record", HTMLButtonElement);
  /** @type {Recorder | null} */
  let recorder = null;
  window.setInterval(() => {
    if (recorder) button.textContent = `Stop ${clock(recorder.seconds)}`;
  }, 200);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      if (recorder) {
        const file = recorder.stop();
        recorder = null;
        take(file);
      } else {
        recorder = await Recorder.start();
        say("");
      }
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
    button.textContent = recorder ? "Stop 0:00" : "Record";
    button.classList.toggle("recording", recorder !== null);
    button.disabled = false;
  });
}
