// Drawings over a photograph: boxes, a map, and what a cut of the map keeps.

import { swatch } from "./chart.js";
import { COLOURS, paint } from "./drawing.js";
import { element } from "./elements.js";

/**
 * A layer of boxes over a canvas, drawn at the resolution of the screen.
 * @returns {(height: number, width: number, boxes: {kind: "true" | "found", box: number[]}[]) => void} shows boxes
 *   [left, top, right, bottom] in inclusive pixels of the canvas.
 */
export function boxesOver(canvas) {
  const layer = element("svg", { class: "boxes", preserveAspectRatio: "none", "aria-hidden": "true" });
  canvas.after(layer);
  return (height, width, boxes) => {
    layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const frames = boxes.flatMap(({ kind, box: [x, y, right, bottom] }) => {
      const place = { x, y, width: Math.max(0, right - x + 1), height: Math.max(0, bottom - y + 1) };
      return ["halo", `box-${kind}`].map((name) => element("rect", { class: name, ...place }));
    });
    layer.replaceChildren(...frames);
  };
}

/** A key for a caption: the line and the words of each kind of box. */
export function keyOf(kinds) {
  const entries = Object.entries(kinds).map(([kind, words]) => {
    const line = { colour: `var(--box-${kind})`, dashes: kind === "true" ? "5 3" : "" };
    return element("span", { class: `key-${kind}` }, swatch(line), words);
  });
  return element("span", { class: "box-keys" }, ...entries);
}

const brightness = (pixels, at) => 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2];

/**
 * Draw a map over its photograph in grey, so that all colour is the map's: the more salient, the more colour.
 * @param {Uint8ClampedArray} pixels red, green, blue and 255 of each.
 */
export function drawOverlay(canvas, pixels, values, opacity) {
  const scale = 1 / (values.reduce((largest, value) => Math.max(largest, value), 0) || 1);
  paint(canvas, (data, index) => {
    const share = values[index] * scale;
    const weight = opacity * (0.2 + 0.8 * share);
    const grey = brightness(pixels, 4 * index);
    const colour = 3 * Math.round(255 * share);
    for (let part = 0; part < 3; part++) data[4 * index + part] = grey + weight * (COLOURS[colour + part] - grey);
  });
}

/**
 * Draw what a cut keeps of a photograph: the largest component in the photograph's colours, the rest of the cut in
 * grey, and all else dark.
 */
export function drawCut(canvas, pixels, cut, component) {
  paint(canvas, (data, index) => {
    const grey = brightness(pixels, 4 * index);
    const flat = cut[index] ? 70 + 0.5 * grey : 0.22 * grey;
    for (let part = 0; part < 3; part++) data[4 * index + part] = component[index] ? pixels[4 * index + part] : flat;
  });
}
