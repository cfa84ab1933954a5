// What the localization protocol does with a map, in the browser: blur, cut, largest component, fit.
// perceptual_lib.saliency and perceptual_lib.protocols.localization say the same in Python; the tests compare the two.

// Blur

const LOWEST = 0.4; // share of the frequencies of a line; a kernel is wide when it passes no others
const NEGLIGIBLE = 2e-5; // gain of a frequency that does not pass, which keeps errors at 1e-5

/**
 * The blur of one map by any sigma: `scipy.ndimage.gaussian_filter(map, sigma)`, to about 1e-5 of the map's range.
 *
 * A narrow kernel is applied as it is. For a wide one it is quicker to work in the cosine transform, where a symmetric
 * filter with this reflecting border is a product, frequency by frequency.
 * @param {Float32Array} values of at least 0, in row order.
 * @returns {(sigma: number) => Float32Array}
 */
export function blurrer(values, height, width) {
  const tall = cosines(height);
  const wide = cosines(width);
  let spectrum = null; // takes as long as a blur, and serves all wide ones

  return (sigma) => {
    const weights = gaussian(sigma);
    const rows = gains(weights, tall);
    const columns = gains(weights, wide);
    if (rows.length > tall.known || columns.length > wide.known) {
      const across = eachLine(values, height, width, filter(weights, width));
      return notNegative(eachLine(across, width, height, filter(weights, height)));
    }
    spectrum ??= eachLine(eachLine(values, height, width, analysis(wide)), wide.known, height, analysis(tall));
    const product = new Float64Array(rows.length * columns.length);
    for (let row = 0; row < rows.length; row++) {
      for (let column = 0; column < columns.length; column++) {
        const gain = rows[row] * columns[column];
        product[row * columns.length + column] = gain * spectrum[row * wide.known + column];
      }
    }
    const across = eachLine(product, rows.length, columns.length, synthesis(wide, columns.length));
    return notNegative(eachLine(across, width, rows.length, synthesis(tall, rows.length)));
  };
}

/** Half of SciPy's kernel, cut at 4 sigma: the weight of the pixel itself, of its neighbours, and so on. */
function gaussian(sigma) {
  const weights = new Float64Array(Math.floor(4 * sigma + 0.5) + 1).fill(1);
  for (let i = 1; i < weights.length; i++) weights[i] = Math.exp(-0.5 * (i / sigma) ** 2);
  const sum = 2 * weights.reduce((total, weight) => total + weight) - 1;
  return weights.map((weight) => weight / sum);
}

/** The kernel's gain at each frequency of a line, up to the last one that matters. */
function gains(weights, { size, wave }) {
  const result = new Float64Array(size).fill(weights[0]);
  for (let k = 0; k < size; k++) {
    for (let i = 1; i < weights.length; i++) result[k] += 2 * weights[i] * wave[(2 * k * i) % (4 * size)];
  }
  return result.subarray(0, 1 + result.findLastIndex((gain) => Math.abs(gain) > NEGLIGIBLE));
}

/**
 * A pass over every line of (count, length) values, the result transposed, so that a second pass sees the columns.
 * @param {{size: number, pass: (line: Float64Array, result: Float64Array) => void}} step from a line to one of `size`.
 */
function eachLine(values, count, length, { size, pass }) {
  const result = new Float64Array(size * count);
  const line = new Float64Array(size);
  for (let index = 0; index < count; index++) {
    pass(values.subarray(index * length, (index + 1) * length), line);
    for (let place = 0; place < size; place++) result[place * count + index] = line[place];
  }
  return result;
}

/** A symmetric filter of lines; borders reflected, d c b a | a b c d | d c b a. */
function filter(weights, size) {
  const radius = weights.length - 1;
  const padded = new Float64Array(size + 3 + 2 * radius); // 3: the last four pixels may be fewer
  const source = Int32Array.from(padded, (_, index) => {
    const place = (((index - radius) % (2 * size)) + 2 * size) % (2 * size);
    return Math.min(place, 2 * size - 1 - place);
  });
  const pass = (line, result) => {
    for (let index = 0; index < padded.length; index++) padded[index] = line[source[index]];
    for (let place = 0; place < size; place += 4) {
      // Four pixels at a time: twice as fast as one.
      const at = place + radius;
      let first = weights[0] * padded[at];
      let second = weights[0] * padded[at + 1];
      let third = weights[0] * padded[at + 2];
      let fourth = weights[0] * padded[at + 3];
      for (let i = 1; i <= radius; i++) {
        const weight = weights[i];
        first += weight * (padded[at - i] + padded[at + i]);
        second += weight * (padded[at + 1 - i] + padded[at + 1 + i]);
        third += weight * (padded[at + 2 - i] + padded[at + 2 + i]);
        fourth += weight * (padded[at + 3 - i] + padded[at + 3 + i]);
      }
      result[place] = first;
      result[place + 1] = second; // past the end, a typed array ignores it
      result[place + 2] = third;
      result[place + 3] = fourth;
    }
  };
  return { size, pass };
}

/**
 * The lowest frequencies of a line: k at pixel x is cos(pi k (2 x + 1) / (2 size)). Even ones are the same from both
 * ends of the line, odd ones of opposite sign, so half of the pixels say all.
 */
function cosines(size) {
  const wave = Float64Array.from({ length: 4 * size }, (_, turn) => Math.cos((Math.PI * turn) / (2 * size)));
  const known = Math.ceil(LOWEST * size);
  const half = Math.ceil(size / 2);
  const pairs = Math.ceil(known / 2);
  const even = new Float64Array(half * pairs);
  const odd = new Float64Array(half * pairs);
  for (let place = 0; place < half; place++) {
    for (let j = 0; j < pairs; j++) {
      even[place * pairs + j] = wave[(2 * j * (2 * place + 1)) % (4 * size)];
      odd[place * pairs + j] = wave[((2 * j + 1) * (2 * place + 1)) % (4 * size)];
    }
  }
  return { size, wave, known, half, pairs, even, odd };
}

/** From a line to its lowest frequencies: the cosine transform II, scaled for `synthesis`. */
function analysis({ size, known, half, pairs, even, odd }) {
  const evens = new Float64Array(pairs);
  const odds = new Float64Array(pairs);
  const pass = (line, result) => {
    evens.fill(0);
    odds.fill(0);
    for (let place = 0; place < half; place++) {
      const mirrored = size - 1 - place;
      const sum = place === mirrored ? line[place] : line[place] + line[mirrored];
      const difference = line[place] - line[mirrored];
      for (let j = 0; j < pairs; j++) {
        evens[j] += sum * even[place * pairs + j];
        odds[j] += difference * odd[place * pairs + j];
      }
    }
    for (let k = 0; k < known; k++) result[k] = ((k ? 2 : 1) * (k % 2 ? odds : evens)[k >> 1]) / size;
  };
  return { size: known, pass };
}

/** From the lowest `count` frequencies of a line to the line. */
function synthesis({ size, half, pairs, even, odd }, count) {
  const evens = new Float64Array(pairs);
  const odds = new Float64Array(pairs);
  const used = Math.ceil(count / 2);
  const pass = (line, result) => {
    for (let k = 0; k < count; k++) (k % 2 ? odds : evens)[k >> 1] = line[k];
    for (let place = 0; place < half; place += 2) {
      // Two pixels at a time, twice as fast again; an odd last one is done twice.
      const next = Math.min(place + 1, half - 1);
      const start = place * pairs;
      const nextStart = next * pairs;
      let sum = 0;
      let difference = 0;
      let nextSum = 0;
      let nextDifference = 0;
      for (let j = 0; j < used; j++) {
        sum += evens[j] * even[start + j];
        difference += odds[j] * odd[start + j];
        nextSum += evens[j] * even[nextStart + j];
        nextDifference += odds[j] * odd[nextStart + j];
      }
      result[place] = sum + difference;
      result[size - 1 - place] = sum - difference;
      result[next] = nextSum + nextDifference;
      result[size - 1 - next] = nextSum - nextDifference;
    }
  };
  return { size, pass };
}

/** In single precision, as Python compares them, and without the -1e-6 that rounding and left out frequencies leave. */
function notNegative(values) {
  const result = new Float32Array(values.length);
  for (let index = 0; index < values.length; index++) if (values[index] > 0) result[index] = values[index];
  return result;
}

// Cut

/**
 * What one threshold keeps of a map, as `cut` in Python has it, to the last bit of single precision.
 * @param {Float32Array} values of at least 0.
 * @param {"value" | "percent" | "mean"} strategy keeps the pixels above alpha; the share alpha of the pixels, those of
 *   the largest values; the pixels above alpha times the map's mean.
 * @returns {{mask: Uint8Array, level: number, count: number}} 1 where it keeps; the value it cuts at; kept pixels.
 */
export function threshold(values, strategy, alpha) {
  const mask = new Uint8Array(values.length);
  let count = 0;
  if (strategy === "percent") {
    const level = largest(values, Math.max(1, roundHalfEven(alpha * values.length)));
    for (let index = 0; index < values.length; index++) count += mask[index] = values[index] >= level ? 1 : 0;
    return { mask, level, count };
  }
  const level = Math.fround(strategy === "mean" ? alpha * mean(values) : alpha);
  for (let index = 0; index < values.length; index++) count += mask[index] = values[index] > level ? 1 : 0;
  return { mask, level, count };
}

export function mean(values) {
  let sum = 0;
  for (let index = 0; index < values.length; index++) sum += values[index];
  return sum / values.length;
}

/** As NumPy and Python round: 0.5 and 2.5 to 0 and 2. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

/** The value of a rank from the top, 1 for the largest. The bits of numbers of at least 0 rank as the numbers do. */
function largest(values, rank) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const upper = new Uint32Array(65536);
  for (let index = 0; index < bits.length; index++) upper[bits[index] >>> 16]++;
  const [high, left] = fromTheTop(upper, rank);
  const lower = new Uint32Array(65536);
  for (let index = 0; index < bits.length; index++) if (bits[index] >>> 16 === high) lower[bits[index] & 65535]++;
  const [low] = fromTheTop(lower, left);
  return new Float32Array(Uint32Array.of(high * 65536 + low).buffer)[0];
}

/** The place of a histogram where a rank from the top falls, and the rank within that place. */
function fromTheTop(histogram, rank) {
  let place = histogram.length - 1;
  while (histogram[place] < rank) rank -= histogram[place--];
  return [place, rank];
}

// Component

/**
 * The largest 8-connected part of a mask; of parts of one size, the one whose first pixel in row order comes first.
 * @param {Uint8Array} mask of 0 and 1.
 * @returns {{mask: Uint8Array, box: [number, number, number, number] | null, size: number}} box: left, top, right,
 *   bottom in inclusive pixels; null of an empty mask.
 */
export function largestComponent(mask, height, width) {
  const stride = width + 2; // a frame of pixels that are never part of it spares every check at the border
  const open = new Uint8Array((height + 2) * stride);
  for (let row = 0; row < height; row++) {
    open.set(mask.subarray(row * width, (row + 1) * width), (row + 1) * stride + 1);
  }
  const steps = [-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1];
  const found = new Int32Array(height * width); // the pixels, part after part
  let [start, end, largestStart, largestEnd] = [0, 0, 0, 0];
  const visit = (place) => {
    open[place] = 0;
    found[end++] = place;
  };
  for (let seed = open.indexOf(1); seed >= 0; seed = open.indexOf(1, seed)) {
    start = end;
    visit(seed);
    for (let next = start; next < end; next++) {
      for (const step of steps) if (open[found[next] + step]) visit(found[next] + step);
    }
    if (end - start > largestEnd - largestStart) [largestStart, largestEnd] = [start, end];
  }
  return framed(found.subarray(largestStart, largestEnd), height, width);
}

/** The mask and the box of places in a frame of one pixel around (height, width). */
function framed(places, height, width) {
  const mask = new Uint8Array(height * width);
  const box = [width, height, -1, -1];
  for (const place of places) {
    const row = Math.floor(place / (width + 2)) - 1;
    const column = (place % (width + 2)) - 1;
    mask[row * width + column] = 1;
    if (column < box[0]) box[0] = column;
    if (row < box[1]) box[1] = row;
    if (column > box[2]) box[2] = column;
    if (row > box[3]) box[3] = row;
  }
  return { mask, box: places.length ? box : null, size: places.length };
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
