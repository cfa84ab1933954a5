// Labelled controls, panels, and the status line.

import { oneOf, onGrid } from "./state.js";

const SVG = ["svg", "line", "rect", "circle", "text", "title", "polyline"];

/** An element with properties (`class`, `aria-*`, `data-*` and other attributes, `on...` listeners) and children. */
export function element(tag, properties = {}, ...children) {
  const space = SVG.includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

let count = 0;
const fresh = () => `explorer-${Date.now().toString(36)}-${count++}`;

/**
 * A labelled slider that shows its value in words. `set` moves it without calling `changed`, `setGrid` changes its
 * range [min, max, step], `valid` gives the nearest value on `grid`, its first range.
 */
export function slider(label, grid, words, changed) {
  const id = fresh();
  const input = element("input", { type: "range", id });
  const output = element("output", { for: id });
  const setGrid = (range) => ([input.min, input.max, input.step] = range);
  const set = (now) => {
    input.value = now;
    const text = words(Number(input.value));
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };
  input.addEventListener("input", () => {
    set(input.value);
    changed(Number(input.value));
  });
  setGrid(grid);
  const root = element("div", { class: "control" }, element("label", { for: id }, label), output, input);
  return { root, input, set, setGrid, valid: (value) => onGrid(value, grid) };
}

/**
 * A labelled choice. `set` chooses without calling `changed`, `fill` changes its options [{value, text, group}], `valid`
 * gives back a value that is one of them, and the first of them for any other.
 */
export function choice(label, options, changed) {
  const id = fresh();
  const input = element("select", { id, onchange: () => changed(input.value) });
  let values = [];
  const fill = (list) => {
    values = list.map(({ value }) => value);
    const made = list.map(({ value, text }) => element("option", { value }, text));
    const groups = [...new Set(list.map(({ group }) => group))].map((label) => {
      const own = made.filter((_, index) => list[index].group === label);
      return label ? [element("optgroup", { label }, ...own)] : own;
    });
    input.replaceChildren(...groups.flat());
  };
  fill(options);
  const root = element("div", { class: "control" }, element("label", { for: id }, label), input);
  return { root, input, set: (now) => (input.value = now), fill, valid: (value) => oneOf(values, value) };
}

/** A button that plays a slider to its end. For readers who prefer reduced motion, a press moves it by one step. */
export function playButton({ input }, milliseconds = 120) {
  let timer = 0;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const button = element("button", { type: "button", onclick: () => (timer ? stop() : start()) });
  const move = (value) => {
    input.value = value;
    input.dispatchEvent(new Event("input"));
  };
  const step = () => {
    const more = Number(input.value) < Number(input.max);
    if (more) move(Number(input.value) + Number(input.step));
    return more;
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = still.matches ? "Step" : "Play";
  };
  const start = () => {
    if (!step()) move(input.min);
    if (still.matches) return;
    button.textContent = "Pause";
    timer = setInterval(() => step() || stop(), milliseconds);
  };
  stop();
  input.addEventListener("pointerdown", stop);
  return button;
}

/** A panel: a canvas of (height, width) pixels with a caption. `describe` sets its text for screen readers. */
export function panel(caption, height, width) {
  const canvas = element("canvas", { height, width, role: "img", "aria-label": caption });
  const text = element("figcaption", {}, caption);
  const describe = (words) => canvas.setAttribute("aria-label", words);
  return { root: element("figure", { class: "panel" }, canvas, text), canvas, text, describe };
}

export const inPercent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

/** The place [x, y] of a pointer event, in pixels of a canvas. */
export function placeOn(canvas, { clientX, clientY }) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return [((clientX - left) / width) * canvas.width, ((clientY - top) / height) * canvas.height];
}

/** A line about what is going on, which screen readers read out politely; `say("")` empties it. */
export function statusLine() {
  const root = element("p", { class: "status", role: "status" });
  return { root, say: (words) => (root.textContent = words) };
}
