// What the localization protocol does with a map, in the browser: blur, cut, largest component, fit.
// core.saliency and evaluation.localization.protocol do the same in Python; tests compare the two.

// Blur

/**
 * Blur a map as `scipy.ndimage.gaussian_filter(map, sigma)` does, first along its rows and then along its columns.
 * @param {Float32Array} values of at least 0, in row order.
 * @returns {Float32Array} in single precision, as Python compares them.
 */
export function blur(values, height, width, sigma) {
  const weights = gaussian(sigma);
  return Float32Array.from(eachLine(eachLine(values, height, width, weights), width, height, weights));
}

/** Half of SciPy's kernel, truncated at 4 sigma: the weight of the pixel itself, of its neighbours, and so on. */
function gaussian(sigma) {
  const weights = new Float64Array(Math.floor(4 * sigma + 0.5) + 1).fill(1);
  for (let i = 1; i < weights.length; i++) weights[i] = Math.exp(-0.5 * (i / sigma) ** 2);
  const sum = 2 * weights.reduce((total, weight) => total + weight) - 1;
  return weights.map((weight) => weight / sum);
}

/**
 * Apply a symmetric filter to every line of (count, length) values, reflected at its ends: d c b a | a b c d | d c b a.
 * The result is transposed, so that a second pass sees the columns.
 */
function eachLine(values, count, length, weights) {
  const radius = weights.length - 1;
  const line = new Float64Array(length + 2 * radius + 3); // 3 more, because the last group of four may be incomplete
  const source = Int32Array.from(line, (_, index) => {
    const place = (((index - radius) % (2 * length)) + 2 * length) % (2 * length);
    return Math.min(place, 2 * length - 1 - place);
  });
  const filtered = new Float64Array(length + 3);
  const result = new Float64Array(length * count);
  for (let index = 0; index < count; index++) {
    for (let at = 0; at < line.length; at++) line[at] = values[index * length + source[at]];
    for (let place = 0; place < length; place += 4) filterFour(line, place + radius, weights, filtered, place);
    for (let place = 0; place < length; place++) result[place * count + index] = filtered[place];
  }
  return result;
}

/** Filter four neighbouring pixels at once: each step away from them then reads one pixel on either side, not four. */
function filterFour(line, at, weights, filtered, place) {
  let [left0, left1, left2, left3] = [line[at], line[at + 1], line[at + 2], line[at + 3]];
  let [right0, right1, right2, right3] = [left0, left1, left2, left3];
  let [sum0, sum1, sum2, sum3] = [weights[0] * left0, weights[0] * left1, weights[0] * left2, weights[0] * left3];
  for (let i = 1; i < weights.length; i++) {
    const weight = weights[i];
    left3 = left2;
    left2 = left1;
    left1 = left0;
    left0 = line[at - i];
    right0 = right1;
    right1 = right2;
    right2 = right3;
    right3 = line[at + 3 + i];
    sum0 += weight * (left0 + right0);
    sum1 += weight * (left1 + right1);
    sum2 += weight * (left2 + right2);
    sum3 += weight * (left3 + right3);
  }
  filtered[place] = sum0;
  filtered[place + 1] = sum1;
  filtered[place + 2] = sum2;
  filtered[place + 3] = sum3;
}

// Cut

/**
 * The pixels of a map that one threshold keeps: the same as `cut` in Python, to the last bit of single precision.
 * @param {Float32Array} values of at least 0.
 * @param {"value" | "percent" | "mean"} strategy keeps the pixels above alpha; the share alpha of the pixels, those of
 *   the largest values; the pixels above alpha times the map's mean.
 * @returns {{mask: Uint8Array, level: number, count: number}} 1 for kept pixels; the value of the cut; kept pixels.
 */
export function threshold(values, strategy, alpha) {
  const isShare = strategy === "percent";
  const level = isShare
    ? values.toSorted().at(-Math.max(1, roundHalfEven(alpha * values.length)))
    : Math.fround(strategy === "mean" ? alpha * mean(values) : alpha);
  const mask = new Uint8Array(values.length);
  let count = 0;
  for (let index = 0; index < values.length; index++) {
    count += mask[index] = values[index] > level || (isShare && values[index] === level) ? 1 : 0;
  }
  return { mask, level, count };
}

export function mean(values) {
  return values.reduce((sum, value) => sum + value) / values.length;
}

/** Round as NumPy and Python do: 0.5 to 0, and 2.5 to 2. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

// Component

/**
 * The largest 8-connected part of a mask; of equally large parts, the one whose first pixel in row order comes first.
 * @param {Uint8Array} mask of 0 and 1.
 * @returns {{mask: Uint8Array, box: [number, number, number, number] | null, size: number}} box: left, top, right,
 *   bottom in inclusive pixels; null for an empty mask.
 */
export function largestComponent(mask, height, width) {
  const open = mask.slice(); // pixels that belong to no part yet
  let largest = [];
  for (let seed = open.indexOf(1); seed >= 0; seed = open.indexOf(1, seed)) {
    open[seed] = 0;
    const part = [seed];
    for (const place of part) { // `part` grows meanwhile
      const [row, column] = [Math.floor(place / width), place % width];
      for (let y = Math.max(0, row - 1); y <= Math.min(height - 1, row + 1); y++) {
        for (let x = Math.max(0, column - 1); x <= Math.min(width - 1, column + 1); x++) {
          if (!open[y * width + x]) continue;
          open[y * width + x] = 0;
          part.push(y * width + x);
        }
      }
    }
    if (part.length > largest.length) largest = part;
  }
  const own = new Uint8Array(mask.length);
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (const place of largest) {
    own[place] = 1;
    const [row, column] = [Math.floor(place / width), place % width];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
  }
  return { mask: own, box: largest.length ? [left, top, right, bottom] : null, size: largest.length };
}

// Fit

/** Intersection over union of a box with the one of `boxes` that it fits best, inclusive pixels; 0 without a box. */
export function iou(box, boxes) {
  if (!box) return 0;
  const area = (left, top, right, bottom) => Math.max(right - left + 1, 0) * Math.max(bottom - top + 1, 0);
  const fits = boxes.map((other) => {
    const corners = [0, 1, 2, 3].map((side) => (side < 2 ? Math.max : Math.min)(box[side], other[side]));
    const shared = area(...corners);
    return shared / (area(...box) + area(...other) - shared);
  });
  return Math.max(0, ...fits);
}
