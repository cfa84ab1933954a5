// Resizes the reader's picture to the network's input size, with the same result as Pillow to the last bit.

const BITS = 2 ** 22; // a weight of 1, as a whole number
const SUPPORT = 2; // pixels that the cubic reaches to either side

/** Keys' cubic kernel with a = -0.5, as Pillow's BICUBIC uses it. */
function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/**
 * Pillow's `Image.resize((columns, rows), BICUBIC)`; only within rounding if the picture gets wider and less high.
 * @param {Uint8ClampedArray} pixels red, green, blue and alpha of each pixel, in row order.
 * @returns {Uint8ClampedArray} red, green, blue and 255 of each pixel.
 */
export function resized(pixels, [height, width], [rows, columns]) {
  return resampleLines(resampleLines(pixels, height, width, columns), columns, height, rows);
}

/** Resize every line of (count, length) pixels to `size`. The result is transposed: a second pass sees the columns. */
function resampleLines(pixels, count, length, size) {
  const scale = length / size;
  const stretch = Math.max(scale, 1);
  const result = new Uint8ClampedArray(4 * size * count).fill(255);
  for (let place = 0; place < size; place++) {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - SUPPORT * stretch + 0.5));
    const last = Math.min(length, Math.trunc(center + SUPPORT * stretch + 0.5));
    const raw = Array.from({ length: last - first }, (_, index) => cubic((index + first - center + 0.5) * (1 / stretch)));
    const share = 1 / raw.reduce((total, weight) => total + weight);
    const weights = raw.map((weight) => Math.sign(weight) * Math.floor(Math.abs(weight * share * BITS) + 0.5));
    for (let line = 0; line < count; line++) {
      let [red, green, blue] = [BITS / 2, BITS / 2, BITS / 2];
      let at = 4 * (line * length + first);
      for (const weight of weights) {
        red += weight * pixels[at];
        green += weight * pixels[at + 1];
        blue += weight * pixels[at + 2];
        at += 4;
      }
      const to = 4 * (place * count + line);
      result[to] = Math.floor(red / BITS);
      result[to + 1] = Math.floor(green / BITS);
      result[to + 2] = Math.floor(blue / BITS);
    }
  }
  return result;
}
