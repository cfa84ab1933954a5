// Maps and pictures on a canvas.

import { pixelsOf } from "./data.js";

/** Matplotlib's inferno at 33 places; between these it is nearly linear. */
const INFERNO = (
  "000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 57106e 64156e 71196e 7d1e6d 8a226a 972766 a32c61 b0315b " +
  "bc3754 c73e4c d24644 db503b e45a31 eb6628 f1731d f68013 f98e09 fb9d07 fcac11 fbbc21 f9cb35 f5db4c f2ea69 f3f68a " +
  "fcffa4"
)
  .split(" ")
  .map((hex) => [0, 2, 4].map((start) => parseInt(hex.slice(start, start + 2), 16)));

/** Red, green and blue of 256 colours, one after the other. */
export const COLOURS = Uint8ClampedArray.from({ length: 256 * 3 }, (_, index) => {
  const place = (Math.floor(index / 3) / 255) * (INFERNO.length - 1);
  const [low, high] = [INFERNO[Math.floor(place)], INFERNO[Math.min(Math.floor(place) + 1, INFERNO.length - 1)]];
  return low[index % 3] + (place % 1) * (high[index % 3] - low[index % 3]);
});

/** Fill a canvas: `pixel(data, index)` writes the red, green and blue of a pixel into `data`, from 4 * index on. */
export function paint(canvas, pixel) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const { data } = image;
  data.fill(255);
  for (let index = 0; index < data.length / 4; index++) pixel(data, index);
  context.putImageData(image, 0, 0);
}

/** Draw a map (H, W) in colours, from its least value to its largest, or to `largest` if that is given. */
export function drawMap(canvas, values, largest = null) {
  const low = values.reduce((least, value) => Math.min(least, value));
  const high = largest ?? values.reduce((most, value) => Math.max(most, value));
  const scale = 255 / (high - low || 1);
  paint(canvas, (data, index) => {
    const colour = 3 * Math.min(255, Math.round((values[index] - low) * scale));
    for (let part = 0; part < 3; part++) data[4 * index + part] = COLOURS[colour + part];
  });
}

/** Draw the map of one tile of a sheet (see `pixelsOf`) of `count` maps. All maps share one range of colours. */
export function drawTile(canvas, picture, index, count) {
  const { height, width } = canvas;
  const pixels = pixelsOf(picture, height, width, index, Math.ceil(Math.sqrt(count)));
  drawMap(canvas, Float32Array.from({ length: height * width }, (_, place) => pixels[4 * place]), 255);
}

/** Draw red, green, blue and alpha of each pixel of the canvas. */
export function drawPixels(canvas, pixels) {
  canvas.getContext("2d").putImageData(new ImageData(pixels, canvas.width), 0, 0);
}

/** Draw a picture as large as the canvas. */
export function drawPicture(canvas, picture) {
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
}
