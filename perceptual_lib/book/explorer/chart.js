// Curves over steps.

import { element } from "./elements.js";

/** The styles of two curves that are compared, ours first; they differ in dashes as well as in colour. */
export const COMPARED = [{ colour: "var(--ours)" }, { colour: "var(--other)", dashes: "6 3" }];

const [WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN] = [460, 220, 60, 40, 12];

/**
 * Curves over steps, with a mark at the step that is shown.
 * @param {{name: string, values: number[], colour: string, dashes?: string, band?: {low: number[], high: number[]}}[]}
 *   curves of equal length; a band is drawn around its values.
 * @param options {title, x, y: labels of the axes, low, high: range of y, level: {value, text} of a line across,
 *   steps: words for the first and the last x, mark: the step that is shown}.
 * @returns {SVGElement}
 */
export function chart(curves, { title, x, y, low, high, level, steps, mark }) {
  const last = curves[0].values.length - 1;
  const values = [...curves.flatMap((curve) => curve.values), ...(level ? [level.value] : [])];
  const ticks = roundTicks(low ?? Math.min(...values), high ?? Math.max(...values));
  [low, high] = [ticks[0], ticks.at(-1)];
  const across = (index) => LEFT + ((WIDTH - LEFT - MARGIN) * index) / Math.max(1, last);
  const down = (value) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - MARGIN) * (value - low)) / (high - low || 1);
  const points = (line) => line.map((value, index) => `${across(index)},${down(value)}`);
  const line = (value, style) => {
    return element("line", { x1: LEFT, x2: WIDTH - MARGIN, y1: down(value), y2: down(value), ...style });
  };
  const text = (words, x, y, anchor, more) => element("text", { x, y, "text-anchor": anchor, ...more }, words);
  const parts = ticks.flatMap((value) => [
    line(value, { stroke: "var(--rule)" }),
    text(String(Number(value.toPrecision(3))), LEFT - 6, down(value) + 4, "end"),
  ]);
  if (level) {
    parts.push(line(level.value, { stroke: "currentColor" }));
    parts.push(text(level.text, WIDTH - MARGIN, down(level.value) - 5, "end"));
  }
  for (const { band, colour } of curves.filter((curve) => curve.band)) {
    const around = [...points(band.high), ...points(band.low).reverse()];
    parts.push(element("polyline", { points: around.join(" "), fill: colour, opacity: 0.15 }));
  }
  const ends = steps ?? [0, last];
  parts.push(
    text(ends[0], across(0), HEIGHT - BOTTOM + 16, "start"),
    text(ends.at(-1), across(last), HEIGHT - BOTTOM + 16, "end"),
    text(x, (LEFT + WIDTH) / 2, HEIGHT - 6, "middle"),
    text(y, 14, HEIGHT / 2, "middle", { transform: `rotate(-90 14 ${HEIGHT / 2})` }),
  );
  for (const { name, values: own, colour, dashes } of curves) {
    const style = { fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dashes };
    const places = points(own);
    parts.push(
      element("polyline", { points: places.join(" "), ...style, opacity: 0.4 }, element("title", {}, name)),
      element("polyline", { points: places.slice(0, mark + 1).join(" "), ...style }),
      element("circle", { r: 4, fill: colour, cx: across(mark), cy: down(own[mark]) }),
    );
  }
  const about = { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title };
  return element("svg", about, ...parts);
}

/** Ticks that enclose low and high, five steps or fewer: multiples of 1, 2 or 5 times a power of ten. */
function roundTicks(low, high) {
  const least = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= least);
  const first = Math.floor(low / step + 1e-9);
  return Array.from({ length: Math.ceil(high / step - 1e-9) - first + 1 }, (_, index) => (first + index) * step);
}

/** A sample of a curve's line, to stand beside its name. */
export function swatch({ colour, dashes }) {
  const line = { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dashes };
  return element("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true" }, element("line", line));
}
