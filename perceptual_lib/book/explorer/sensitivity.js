// The triangle of Fig. 5 (Sec. 4.2): the map of each range of layers, and how well it localizes.

import {
  choice, drawBoxes, drawMap, drawPicture, element, keepInAddress, load, newestOnly, oneOf, panel, PALETTE, pixelsOf,
  put, statusLine,
} from "./common.js";

const TRAITS = ["photograph", "layers"];
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/**
 * A button for each range, from the first layer held (down) to the last (across).
 * @param ranges [{layers, first, last, value}].
 * @param choose is called with the layers of a button that is pressed, hovered over or reached by an arrow key.
 * @returns {{root: HTMLElement, set: (layers: string) => void}}
 */
function triangle(ranges, choose) {
  const distinct = (name) => [...new Set(ranges.map((range) => range[name]))].sort((one, other) => one - other);
  const [firsts, lasts] = [distinct("first"), distinct("last")];
  const errors = ranges.map(({ value }) => value);
  const [low, high] = [Math.min(...errors), Math.max(...errors)];
  const buttons = new Map();
  const move = (event, row, column) => {
    if (!(event.key in MOVES)) return;
    event.preventDefault();
    const [down, across] = MOVES[event.key];
    const next = buttons.get(`${firsts[row + down]}-${lasts[column + across]}`);
    next?.focus();
    next?.click();
  };
  const cell = (first, row) => (last, column) => {
    const range = ranges.find((each) => each.first === first && each.last === last);
    if (!range) return element("td");
    const button = element(
      "button",
      {
        type: "button",
        "aria-label": `layers ${first} to ${last}: error ${range.value.toFixed(2)}`,
        style: `--share: ${(range.value - low) / (high - low || 1)}`,
        onclick: () => choose(range.layers),
        onpointerenter: (event) => event.pointerType === "mouse" && choose(range.layers),
        onkeydown: (event) => move(event, row, column),
      },
      range.value.toFixed(2),
    );
    buttons.set(range.layers, button);
    return element("td", {}, button);
  };
  const line = (first, row) =>
    element("tr", {}, element("th", { scope: "row" }, String(first)), ...lasts.map(cell(first, row)));
  const head = lasts.map((last) => element("th", { scope: "col" }, String(last)));
  const table = element(
    "table",
    {},
    element("caption", {}, "Error by the first layer held (down) and the last (across)"),
    element("thead", {}, element("tr", {}, element("td"), ...head)),
    element("tbody", {}, ...firsts.map(line)),
  );
  const set = (layers) => {
    for (const [each, button] of buttons) {
      button.setAttribute("aria-pressed", each === layers);
      button.tabIndex = each === layers || !buttons.has(layers) ? 0 : -1; // one stop of the tab key, arrows within
    }
  };
  return { root: element("div", { class: "triangle" }, table), set };
}

function render({ model, el }) {
  el.classList.add("explorer");
  keepInAddress(model, "sensitivity", TRAITS);
  const about = model.get("about");
  const [height, width] = about.size;
  const photographs = about.photographs.map(({ value }) => value);
  const known = [about.own, ...about.ranges.map(({ layers }) => layers)];
  const state = () => ({
    photograph: oneOf(photographs, model.get("photograph")),
    layers: oneOf(known, model.get("layers")),
  });

  const set = (trait) => (value) => put(model, trait, value);
  const photograph = choice("Photograph", about.photographs, photographs[0], set("photograph"));
  const choose = set("layers");
  const cells = triangle(about.ranges.filter(({ role }) => role === "range"), choose);
  const own = element("button", { type: "button", onclick: () => choose(about.own) }, `The profile's: ${about.own}`);
  const [picture, map] = ["The photograph and its boxes", "Its map"].map((text) => panel(text, height, width));
  const readout = element("p", { class: "readout" });
  const status = statusLine();

  const arrays = async () => {
    const now = state();
    photograph.set(now.photograph);
    cells.set(now.layers);
    own.setAttribute("aria-pressed", now.layers === about.own);
    const keys = [`picture/${now.photograph}`, `map/${now.photograph}/${now.layers}`];
    return [now, ...(await Promise.all(keys.map((key) => load(model, key))))];
  };

  const show = ([now, photo, drawn]) => {
    const boxes = about.boxes[now.photograph];
    const pixels = pixelsOf(drawn, height, width);
    drawPicture(picture.canvas, photo);
    drawMap(map.canvas, Float32Array.from({ length: height * width }, (_, at) => pixels[4 * at]), 255);
    for (const { canvas } of [picture, map]) drawBoxes(canvas, boxes, PALETTE.trueBox);
    const range = about.ranges.find(({ layers }) => layers === now.layers);
    map.text.textContent = `Its map with layers ${range.first} to ${range.last} held, sigma ${about.sigma}`;
    picture.describe(`${now.photograph} with the boxes of its object`);
    map.describe(`Map of ${now.photograph} with layers ${range.first} to ${range.last} held`);
    readout.replaceChildren(
      `Layers ${range.first} to ${range.last}: error `, element("b", {}, range.value.toFixed(2)),
      " at the best value threshold, ", element("b", {}, range.best.toFixed(2)),
      ` at the best of all thresholds (n = ${range.n})`,
    );
  };

  const refresh = newestOnly(status, arrays, show);
  for (const trait of TRAITS) model.on(`change:${trait}`, refresh);
  el.replaceChildren(
    element("div", { class: "controls" }, photograph.root, own),
    element("div", { class: "panels" }, picture.root, map.root),
    cells.root,
    readout,
    status.root,
  );
  refresh();
}

export default { render };
