// Ranges of layers: two handles over the activations, and the triangle of the ranges that were tried (Fig. 5).

import { COLOURS, element } from "./common.js";

/** @typedef {{layers: string, first: number, last: number, error: number | null}} Range */

/** @returns {Range | null} of "first-last". */
export function parsedRange(text) {
  const found = /^(\d+)-(\d+)$/.exec(text);
  if (!found || Number(found[1]) > Number(found[2])) return null;
  return { layers: text, first: Number(found[1]), last: Number(found[2]), error: null };
}

const inWords = (first, last) => (first === last ? `layer ${first}` : `layers ${first} to ${last}`);

/** The range nearest to (first, last); an end that has `weight` counts before the other. */
export function nearestRange(ranges, first, last, weight = { first: 1, last: 1 }) {
  const distance = (range) => weight.first * Math.abs(range.first - first) + weight.last * Math.abs(range.last - last);
  return ranges.reduce((best, range) => (distance(range) < distance(best) ? range : best));
}

/** Place of the number nearest to one, in ascending numbers. */
function placeOf(numbers, wanted) {
  const distances = numbers.map((number) => Math.abs(number - wanted));
  return distances.indexOf(Math.min(...distances));
}

/**
 * Two handles over the activations, which snap to where a unit begins and where one ends.
 * @param {(first: number, last: number, moved: "first" | "last") => void} changed by the reader.
 */
export function rangeHandles(changed) {
  let firsts = [0];
  let lasts = [0];
  const output = element("output");
  const bar = element("div", { class: "bar" });
  const handle = (moved) =>
    element("input", { type: "range", "aria-label": `${moved} layer held`, oninput: () => move(moved) });
  const ends = { first: handle("first"), last: handle("last") };
  const place = (end) => Number(ends[end].value);

  const move = (moved) => {
    const other = moved === "first" ? "last" : "first";
    if (place("first") > place("last")) ends[other].value = place(moved); // one pushes the other along
    changed(firsts[place("first")], lasts[place("last")], moved);
  };

  /** @param {number[][]} units [first, last] of each. */
  const set = (units, first, last) => {
    firsts = units.map((unit) => unit[0]);
    lasts = units.map((unit) => unit[1]);
    for (const input of Object.values(ends)) input.max = units.length - 1;
    ends.first.value = placeOf(firsts, first);
    ends.last.value = placeOf(lasts, last);
    for (const [end, input] of Object.entries(ends)) input.setAttribute("aria-valuetext", `${{ first, last }[end]}`);
    const share = (end) => place(end) / Math.max(1, units.length - 1);
    bar.style.setProperty("--from", share("first"));
    bar.style.setProperty("--to", share("last"));
    output.textContent = inWords(first, last);
  };
  const track = element("div", { class: "track" }, bar, ends.first, ends.last);
  const label = element("span", { class: "label", "aria-hidden": "true" }, "Layers held");
  const root = element("div", { class: "control", role: "group", "aria-label": "Layers held" }, label, output, track);
  return { root, set };
}

/**
 * The ranges as a triangle: rows by first layer, columns by last, the brighter the smaller the error. One is chosen by
 * a click or by the arrow keys, as among radio buttons.
 * @param {Range[]} ranges
 * @param {(range: Range) => void} changed by the reader.
 */
export function rangeTriangle(ranges, changed) {
  const rows = ascending(ranges.map((range) => range.first));
  const columns = ascending(ranges.map((range) => range.last));
  const errors = ranges.map((range) => range.error).filter((error) => error !== null);
  const [low, high] = [Math.min(...errors), Math.max(...errors)];
  const cells = new Map(ranges.map((range) => [range.layers, cell(range)]));
  const grid = element("div", { class: "ranges", role: "radiogroup", onkeydown: step }, ...cells.values());
  grid.setAttribute("aria-label", "Layers held, by the first one (rows) and the last one (columns)");
  grid.style.setProperty("--columns", columns.length);
  let chosen = null;

  function cell(range) {
    const { first, last, error } = range;
    const text = `${inWords(first, last)}: ${error === null ? "error not known" : `error ${error.toFixed(3)}`}`;
    const said = { title: text, "aria-label": text };
    const made = element("button", { type: "button", role: "radio", ...said, onclick: () => changed(range) });
    made.style.gridArea = `${rows.indexOf(first) + 1} / ${columns.indexOf(last) + 1}`;
    if (error !== null) made.style.background = colour((high - error) / (high - low || 1));
    return made;
  }

  /** To the next range in the direction of an arrow key. */
  function step(event) {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const from = ranges.find((range) => cells.get(range.layers) === event.target);
    if (!way || !from) return;
    event.preventDefault();
    let [row, column] = [rows.indexOf(from.first), columns.indexOf(from.last)];
    for (;;) {
      row += way[0];
      column += way[1];
      if (!(row in rows && column in columns)) return;
      const next = ranges.find((range) => range.first === rows[row] && range.last === columns[column]);
      if (!next || cells.get(next.layers).disabled) continue;
      changed(next);
      return cells.get(next.layers).focus();
    }
  }

  /** @param {string} layers the range that is shown; @param {(range: Range) => boolean} there whether it has a map. */
  const set = (layers, there) => {
    chosen = cells.get(layers);
    for (const range of ranges) cells.get(range.layers).disabled = !there(range);
    const stop = chosen ?? [...cells.values()].find((each) => !each.disabled);
    for (const each of cells.values()) {
      each.setAttribute("aria-checked", String(each === chosen));
      each.tabIndex = each === stop ? 0 : -1;
    }
  };
  const scale = `bright: small error (${low.toFixed(2)} to ${high.toFixed(2)})`;
  const lines = ["↓ first layer held", "→ last layer held", scale].map((line) => element("span", {}, line));
  const key = element("p", { class: "key" }, ...lines);
  return { root: element("div", { class: "tried" }, grid, key), set };
}

const ascending = (numbers) => [...new Set(numbers)].sort((one, other) => one - other);

/** A colour of the maps, of a share in [0, 1]. */
function colour(share) {
  const start = 3 * Math.round(40 + 215 * share); // darker ones would all look black
  return `rgb(${COLOURS.slice(start, start + 3).join(" ")})`;
}
