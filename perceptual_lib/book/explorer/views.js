// The views of the explorer of layers: four panels, how well the cut fits, and facts about the method.

import { boxesOver, drawCut, drawOverlay, keyOf } from "./cuts.js";
import { drawMap, drawPixels } from "./drawing.js";
import { element, panel } from "./elements.js";
import { iou, largestComponent, threshold } from "./numerics.js";
import { inWords } from "./ranges.js";

const CUT = "What is kept; in colours, its largest part";

export function panelsOf(size) {
  const captions = { photograph: "The photograph", map: "The map", overlay: "The map over the photograph", cut: CUT };
  const views = Object.fromEntries(Object.entries(captions).map(([name, text]) => [name, panel(text, ...size)]));
  views.cut.canvas.style.imageRendering = "pixelated";
  views.photograph.text.append(keyOf({ true: "true box" }));
  views.cut.text.append(keyOf({ found: "its box", true: "true box" }));
  const boxes = { photograph: boxesOver(views.photograph.canvas), cut: boxesOver(views.cut.canvas) };
  return { ...views, boxes };
}

/** @returns {number | null} IoU of the largest part's box with the best true box; null without a true box. */
export function drawPanels(views, size, { state, pixels, blurred }, now) {
  const { boxes } = state.photograph;
  const cut = threshold(blurred, now.strategy, now.alpha);
  const component = largestComponent(cut.mask, ...size);
  drawPixels(views.photograph.canvas, pixels);
  drawMap(views.map.canvas, blurred);
  drawOverlay(views.overlay.canvas, pixels, blurred, now.opacity);
  drawCut(views.cut.canvas, pixels, cut.mask, component.mask);

  const real = boxes.map((box) => ({ kind: "true", box }));
  views.boxes.photograph(...size, real);
  views.boxes.cut(...size, component.box ? [...real, { kind: "found", box: component.box }] : real);
  describe(views, state, now, { all: blurred.length, kept: cut.count, largest: component.size });
  return boxes.length ? iou(component.box, boxes) : null;
}

/** Describe in words what the panels show. */
function describe(views, { photograph, method, layers, tried }, now, { all, kept, largest }) {
  const percent = (count) => `${((100 * count) / all).toFixed(1)} %`;
  const settings = Object.entries(tried).map(([name, value]) => `, ${name.replace("_", " ")} ${value}`);
  const held = layers && `, layers ${layers} held${settings.join("")}`;
  views.photograph.describe(`Photograph: ${photograph.title}`);
  views.map.describe(`Map by ${method.title}${held}, blurred by ${now.sigma} pixels`);
  views.cut.describe(`${percent(kept)} of the pixels are kept, ${percent(largest)} are in the largest part`);
  views.cut.text.firstChild.data = kept ? CUT : "Nothing is kept";
}

/** Facts about a map: the class that it explains, and the class after the change; the cost of its method, and its error
 *  in Table 1 and with these layers. */
export function factsOf({ becomes, errors, ranges }, { photograph, method, layers, map, live }, strategy) {
  const { title, explained } = photograph;
  const words = [];
  if (!live && explained && explained !== title) words.push(`Explained is ${explained}, which the network sees here. `);
  const after = becomes[map];
  if (after) words.push(element("b", {}, after === explained ? `Still ${after}. ` : `${explained} → ${after}. `));
  words.push(`${method.title} (passes of the network: ${method.note}).`);
  const own = errors[method.name];
  if (own) {
    const [error, low, high] = own[strategy].map((value) => value.toFixed(2));
    const passes = own.note === method.note ? "" : ` (with ${own.note})`;
    words.push(` Table 1${passes}, cut by ${strategy}: error ${error} [${low}, ${high}], n = ${own.n}.`);
  }
  const range = method.name === "perceptual" && ranges.find((each) => each.layers === layers);
  if (range && range.error !== null) {
    const [value, best] = [range.error, range.best].map((error) => element("b", {}, error.toFixed(2)));
    words.push(` With ${inWords(range)} held: error `, value);
    words.push(" at the best value threshold, ", best, ` at the best of all thresholds (n = ${range.n}).`);
  }
  return words;
}

/** The fit in words, as a bar beside 0.5, which makes a hit, and for screen readers, at most twice a second. */
export function verdict() {
  const number = element("span");
  const sign = element("span", { class: "sign" });
  const meter = element("div", { class: "meter" });
  const heard = element("p", { class: "unseen", "aria-live": "polite" });
  const seen = element("div", { class: "verdict", "aria-hidden": "true" }, element("p", {}, number, sign), meter);
  let timer = 0;
  let words = "";
  const announce = () => {
    timer = 0;
    if (heard.textContent !== words) heard.textContent = words;
  };
  /** @param {number | null} fit intersection over union; null where no box is known. */
  const show = (fit) => {
    const hit = fit >= 0.5;
    const outcome = fit === null ? "" : hit ? "hit" : "miss";
    number.textContent = fit === null ? "No box is known for this photograph: no IoU." : `IoU ${fit.toFixed(3)}`;
    sign.textContent = outcome && `${hit ? "✓" : "✗"} ${outcome}`;
    sign.dataset.outcome = outcome;
    meter.hidden = fit === null;
    meter.style.setProperty("--share", fit ?? 0);
    words = `${number.textContent} ${outcome}`;
    timer ||= setTimeout(announce, 500);
  };
  return { root: element("div", {}, seen, heard), show };
}
