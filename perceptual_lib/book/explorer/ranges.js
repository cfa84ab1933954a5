// Ranges of layers: a slider for each end, and the triangle of the ranges that were tried (Fig. 5).

import { COLOURS } from "./drawing.js";
import { element } from "./elements.js";

/** @typedef {{layers: string, first: number, last: number, error?: number | null}} Range */

/** @returns {Range | null} of "first-last", or of one layer. */
export function parsedRange(text) {
  const found = /^(\d+)(?:-(\d+))?$/.exec(text);
  const [first, last] = [Number(found?.[1]), Number(found?.[2] ?? found?.[1])];
  return first <= last ? { layers: `${first}-${last}`, first, last } : null;
}

export const inWords = ({ first, last }) => (first === last ? `layer ${first}` : `layers ${first} to ${last}`);

/** The range nearest to (first, last); `weight` says how much the distance of each end counts. */
export function nearestRange(ranges, first, last, weight = { first: 1, last: 1 }) {
  const distance = (range) => weight.first * Math.abs(range.first - first) + weight.last * Math.abs(range.last - last);
  return ranges.reduce((best, range) => (distance(range) < distance(best) ? range : best));
}

const ascending = (numbers) => [...new Set(numbers)].sort((one, other) => one - other);

/** The index of the number nearest to the wanted one. */
function placeOf(numbers, wanted) {
  const distances = numbers.map((number) => Math.abs(number - wanted));
  return distances.indexOf(Math.min(...distances));
}

/**
 * A slider for each end of a range, which snaps to the layers where ranges begin or end; and buttons that hold the
 * profile's layers, or none.
 * @param {Range[]} ranges that were tried; empty if all ranges can be had, which `set(range, true)` says, too.
 * @param {number} count of activations.
 * @param {Range} own range of the profile.
 * @param {(first: number, last: number, moved?: "first" | "last") => void} changed is called for the reader's changes.
 * @param {(() => void) | null} release holds no layer; null if there are no such maps.
 */
export function rangeHandles(ranges, count, own, changed, release) {
  const all = [...Array(count).keys()];
  const grids = {}; // end -> the layers that its slider stops at
  const output = element("output");
  const layer = (end) => grids[end][Number(ends[end].value)];
  const handle = (end) => {
    const oninput = () => changed(layer("first"), layer("last"), end);
    return element("input", { type: "range", "aria-label": `${end} layer held`, oninput });
  };
  const ends = { first: handle("first"), last: handle("last") };

  /** Show a range; for null, no layer, the sliders stay as they were. `any`: all layers are stops. */
  const set = (range, any) => {
    none?.setAttribute("aria-pressed", !range);
    profile.setAttribute("aria-pressed", range?.layers === own.layers);
    output.textContent = range ? inWords(range) : "no layer";
    if (!range) return;
    for (const [end, input] of Object.entries(ends)) {
      grids[end] = any || !ranges.length ? all : ascending(ranges.map((each) => each[end]));
      input.max = grids[end].length - 1;
      input.value = placeOf(grids[end], range[end]);
      input.setAttribute("aria-valuetext", `${range[end]}`); // may lie between two stops
      input.parentElement.hidden = grids[end].length < 2; // it could not move, and the words above say where it is
    }
  };
  const button = (words, onclick) => element("button", { type: "button", onclick }, words);
  const none = release && button("None", release);
  const profile = button("Default", () => changed(own.first, own.last));
  profile.title = `The profile's: ${inWords(own)}`;
  const label = element("span", { class: "label", "aria-hidden": "true" }, "Layers held");
  const rows = Object.entries(ends).map(([end, input]) => element("label", { class: "end" }, end, input));
  const parts = [label, output, ...rows, element("div", { class: "quick" }, none, profile)];
  set(own); // the sliders' first places, which matter if no layer is held at first
  return { root: element("div", { class: "control", role: "group", "aria-label": "Layers held" }, ...parts), set };
}

const MOVES = { ArrowLeft: ["last", -1], ArrowRight: ["last", 1], ArrowUp: ["first", -1], ArrowDown: ["first", 1] };
const ROOM = 8; // up to so many columns leave room to write the errors into the cells

/**
 * The ranges as a triangle: rows by first layer, columns by last, the brighter the smaller the error. The reader
 * chooses one by a click or by the arrow keys, as among radio buttons.
 * @param {Range[]} ranges
 * @param {() => boolean} preview whether a range is shown while the mouse is over it.
 * @param {(layers: string) => void} changed is called with the range that the reader chooses or looks at.
 */
export function rangeTriangle(ranges, preview, changed) {
  const rows = ascending(ranges.map((range) => range.first));
  const columns = ascending(ranges.map((range) => range.last));
  const errors = ranges.map((range) => range.error).filter((error) => error !== null);
  const [low, high] = [Math.min(...errors), Math.max(...errors)];
  const number = (error) => (error !== null && columns.length <= ROOM ? error.toFixed(2) : null);
  const cells = new Map(ranges.map((range) => [range.layers, cell(range)]));
  let shown = "";
  let kept = null; // the range that is shown again when the mouse leaves

  const choose = (layers) => {
    kept = null;
    changed(layers);
  };
  const look = (layers) => {
    kept ??= shown;
    changed(layers);
  };

  function cell(range) {
    const { first, last, error, layers } = range;
    const known = error !== null;
    const text = `${inWords(range)}: ${known ? `error ${error.toFixed(3)}` : "error not known"}`;
    const about = { type: "button", role: "radio", title: text, "aria-label": text, onclick: () => choose(layers) };
    const onpointerenter = ({ pointerType }) => preview() && pointerType === "mouse" && !made.disabled && look(layers);
    const made = element("button", { ...about, onpointerenter }, number(error));
    made.style.gridArea = `${rows.indexOf(first) + 1} / ${columns.indexOf(last) + 1}`;
    if (known) paintCell(made, (high - error) / (high - low || 1));
    return made;
  }

  /** Choose the next range in the direction of an arrow key. */
  function step(event) {
    const [end, way] = MOVES[event.key] ?? [];
    const from = ranges.find((range) => cells.get(range.layers) === event.target);
    if (!end || !from) return;
    event.preventDefault();
    const other = end === "first" ? "last" : "first";
    const ahead = ranges.filter((range) => range[other] === from[other] && way * (range[end] - from[end]) > 0);
    const there = ahead.filter(({ layers }) => !cells.get(layers).disabled);
    if (!there.length) return;
    const next = nearestRange(there, from.first, from.last);
    choose(next.layers);
    cells.get(next.layers).focus();
  }

  /** @param {string} layers the range that is shown; @param {(layers: string) => boolean} there whether it has a map. */
  const set = (layers, there) => {
    shown = layers;
    for (const [each, made] of cells) made.disabled = !there(each);
    const stop = cells.get(layers) ?? [...cells.values()].find((made) => !made.disabled);
    for (const [each, made] of cells) {
      made.setAttribute("aria-checked", each === layers);
      made.tabIndex = made === stop ? 0 : -1;
    }
  };
  const label = "Layers held, by the first one (rows) and the last one (columns)";
  const about = { class: "ranges", role: "radiogroup", "aria-label": label, onkeydown: step };
  const grid = element("div", { ...about, onpointerleave: () => kept !== null && choose(kept) }, ...cells.values());
  grid.style.setProperty("--columns", columns.length);
  const scale = `bright: small error (${low.toFixed(2)} to ${high.toFixed(2)})`;
  const names = (layers) => (layers.length <= ROOM ? `: ${layers.join(", ")}` : "");
  const held = [`↓ first layer held${names(rows)}`, `→ last layer held${names(columns)}`];
  const lines = [...held, scale].map((line) => element("div", {}, line));
  const key = element("div", { class: "key" }, ...lines);
  return { root: element("div", { class: "tried" }, grid, key), set };
}

/** Give a cell the maps' colour for a share in [0, 1], and letters that stand out from it. */
function paintCell({ style }, share) {
  const start = 3 * Math.round(40 + 215 * share); // darker ones would all look black
  style.background = `rgb(${COLOURS.slice(start, start + 3).join(" ")})`;
  style.color = share < 0.46 ? "white" : "black"; // either has a contrast of 4.5 or more
}
