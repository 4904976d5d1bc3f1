/** The keys of the player. */

/** The element that the Tab key, not the mouse, has brought the focus to. @type {EventTarget | null} */
let tabbedTo = null;

/**
 * Whether a key belongs to the element that has the focus. A button that was clicked keeps the focus, but the space
 * bar is the player's all the same.
 * @param {KeyboardEvent} event
 */
function keepsKey({ target, key }) {
  if (!(target instanceof HTMLElement)) return false;
  if (target.matches("select")) return true;
  if (key === " ") return target === tabbedTo && !target.matches("input[type=range]");
  return target.matches("input") && (key === "Home" || key.startsWith("Arrow"));
}

/**
 * Listen to the keyboard.
 * @param {(key: string) => boolean} onKey says whether the key did anything
 */
export function listenToKeys(onKey) {
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keepsKey(event)) return;
    if (onKey(event.key)) event.preventDefault();
  });
  window.addEventListener("focusin", ({ target }) => {
    tabbedTo = target instanceof HTMLElement && target.matches(":focus-visible") ? target : null;
  });
  window.addEventListener("keyup", (event) => {
    if (event.key === " " && event.target instanceof HTMLButtonElement && !keepsKey(event)) event.preventDefault();
  });
}

/**
 * @param {string} key
 * @param {import("./track_player.js").TrackPlayer} player
 * @returns {boolean} whether it is a key of the player
 */
export function playByKey(key, player) {
  if (key === " ") player.toggle();
  else if (key === "ArrowLeft") player.step(-1);
  else if (key === "ArrowRight") player.step(1);
  else if (key === "Home") player.seek(0);
  else if (/^[1-9]$/.test(key)) player.soloSpeaker(Number(key));
  else if (key === "0") player.compare();
  else if (key === "+" || key === "=") player.zoom(0.5);
  else if (key === "-") player.zoom(2);
  else return false;
  return true;
}
