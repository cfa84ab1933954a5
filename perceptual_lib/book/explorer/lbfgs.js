// L-BFGS with the steps of `torch.optim.LBFGS` without line search; core/lbfgs.py does the same in Python.

const CURVATURE = 1e-10; // least product of step and gradient change for a pair to be remembered
const HISTORY = 100; // pairs
const TOLERANCE_GRADIENT = 1e-7;
const TOLERANCE_CHANGE = 1e-9;

/**
 * The points of a search, one at a time: the search goes on when the next point is asked for.
 * @param {(point: Float32Array) => Promise<{loss: number, gradient: Float32Array}>} evaluate gives new arrays.
 * @param {Float32Array} start
 * @yields {Float32Array} the start, and the point after each step, the same array each time.
 * @throws {Error} where the loss or the gradient is NaN or infinite.
 */
export async function* minimize(evaluate, start, most = 60) {
  const point = start.slice();
  const pairs = [];
  let { loss, gradient } = await checked(evaluate, point);
  let direction = sum(null, -1, gradient);
  let length = Math.min(1, 1 / gradient.reduce((total, value) => total + Math.abs(value), 0)); // as torch's first step
  yield point;
  if (largest(gradient) <= TOLERANCE_GRADIENT) return;
  for (let step = 1; step <= most; step++) {
    if (dot(gradient, direction) > -TOLERANCE_CHANGE) return;
    const move = sum(null, length, direction);
    add(point, 1, move);
    const next = await checked(evaluate, point);
    yield point;
    const done = largest(next.gradient) <= TOLERANCE_GRADIENT || largest(move) <= TOLERANCE_CHANGE;
    if (done || Math.abs(next.loss - loss) < TOLERANCE_CHANGE) return;
    remember(pairs, move, sum(next.gradient, -1, gradient));
    direction = downhill(pairs, next.gradient);
    ({ loss, gradient } = next);
    length = 1;
  }
}

async function checked(evaluate, point) {
  const found = await evaluate(point);
  if (Number.isFinite(found.loss + largest(found.gradient))) return found;
  throw new Error("the search broke down: the network gave NaN or infinity.");
}

function remember(pairs, step, change) {
  const curvature = dot(step, change);
  if (curvature <= CURVATURE) return;
  if (pairs.length === HISTORY) pairs.shift();
  pairs.push({ step, change, curvature });
}

/** Minus the approximate inverse Hessian times the gradient, by the two loops over the pairs. */
function downhill(pairs, gradient) {
  const direction = sum(null, -1, gradient);
  const shares = pairs.map(() => 0);
  for (let index = pairs.length - 1; index >= 0; index--) {
    shares[index] = dot(pairs[index].step, direction) / pairs[index].curvature;
    add(direction, -shares[index], pairs[index].change);
  }
  const last = pairs.at(-1);
  const scale = last ? last.curvature / dot(last.change, last.change) : 1;
  for (let index = 0; index < direction.length; index++) direction[index] *= scale;
  pairs.forEach(({ step, change, curvature }, index) => {
    add(direction, shares[index] - dot(change, direction) / curvature, step);
  });
  return direction;
}

// Plain loops: calling a function for each of the hundred thousand entries would take seven times as long.

export function dot(one, other) {
  let total = 0;
  for (let index = 0; index < one.length; index++) total += one[index] * other[index];
  return total;
}

function add(to, factor, values) {
  for (let index = 0; index < to.length; index++) to[index] += factor * values[index];
}

/** A new array: `one` (null for zeros) plus factor times the values. */
export function sum(one, factor, values) {
  const made = one ? one.slice() : new Float32Array(values.length);
  add(made, factor, values);
  return made;
}

function largest(values) {
  let most = 0;
  for (let index = 0; index < values.length; index++) most = Math.max(most, Math.abs(values[index]));
  return most;
}
