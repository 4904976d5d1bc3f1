/**
 * Draws a track: its waveform with its spectrogram below.
 *
 * @typedef {{start: number, count: number, low: Float32Array, high: Float32Array, shades: Uint8Array}} Columns a
 *   section in samples; the lowest and highest sample of every column; for every column its bands, lowest first
 */

const WAVE_SHARE = 0.38;

/**
 * Columns as an image, one pixel wide each.
 * @param {Columns} columns
 * @param {number} height
 * @param {string} colour of the track, as `rgb(r, g, b)`
 * @param {number} peak that fills the waveform's height
 * @returns {HTMLCanvasElement}
 */
export function paint(columns, height, colour, peak) {
  const width = columns.low.length;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const waveHeight = Math.round(height * WAVE_SHARE);
  context.fillStyle = colour;
  const middle = waveHeight / 2;
  for (let x = 0; x < width; x++) {
    const top = middle - (columns.high[x] / peak) * middle;
    const bottom = middle - (columns.low[x] / peak) * middle;
    context.fillRect(x, top, 1, Math.max(1, bottom - top));
  }
  paintSpectrogram(context, columns.shades, waveHeight, height - waveHeight, colour);
  return canvas;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Uint8Array} shades
 * @param {number} top
 * @param {number} height
 * @param {string} colour
 */
function paintSpectrogram(context, shades, top, height, colour) {
  const width = context.canvas.width;
  const bands = shades.length / width;
  const [red, green, blue] = colour.match(/\d+/g)?.map(Number) ?? [128, 128, 128];
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++) {
    const band = Math.floor(((height - 0.5 - y) / height) * bands);
    for (let x = 0; x < width; x++) {
      // Quiet bins are transparent, so that the picture fits the dark and the light theme.
      const place = 4 * (y * width + x);
      image.data[place] = red;
      image.data[place + 1] = green;
      image.data[place + 2] = blue;
      image.data[place + 3] = shades[x * bands + band] ** 1.2 / 3;
    }
  }
  context.putImageData(image, 0, top);
}
