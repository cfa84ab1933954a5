// Layers, blur and thresholds (Secs. 3 and 4.2): a photograph, its map, what a cut of it keeps, and how well that fits.

import {
  choice, drawMap, drawPicture, eachFrame, element, keepInAddress, load, oneOf, panel, pixelsOf, put, scaledMap, slider,
  statusLine,
} from "./common.js";
import { boxesOver, drawCut, drawOverlay, keyOf } from "./cuts.js";
import { blurrer, iou, largestComponent, mean, threshold } from "./numerics.js";
import { nearestRange, parsedRange, rangeHandles, rangeTriangle } from "./ranges.js";

const TRAITS = ["photograph", "method", "layers", "sigma", "strategy", "alpha", "opacity"];
/** What is kept, by strategy. */
const KEPT = {
  value: (alpha) => `> ${alpha.toFixed(2)}`,
  percent: (alpha) => `largest ${Math.round(100 * alpha)} %`,
  mean: (alpha) => `> ${alpha.toFixed(2)} × mean`,
};
const PATIENCE = 250; // ms: nothing is computed for what the reader only passes by

/**
 * The reader's choices, as far as they can be shown.
 * @typedef {{photograph: object, method: object, layers: string, sigma: number, strategy: string, alpha: number,
 *   opacity: number, picture: string, map: string, chosen: object}} State photograph and method are those of `about`;
 *   picture and map are keys, and chosen are the traits that led to them.
 *
 * A photograph with its map.
 * @typedef {{state: State, picture: HTMLImageElement, pixels: Uint8ClampedArray, blur: (sigma: number) => Float32Array,
 *   sigma: number | null, blurred: Float32Array | null}} Shown state is the one that asked for them.
 */

function render({ model, el }) {
  el.classList.add("explorer");
  const { activations, notice } = model.get("about");
  const initial = parsedRange(model.get("layers")) ?? parsedRange(`0-${Math.max(0, activations - 1)}`);
  keepInAddress(model, "layers", TRAITS);
  const state = () => stateOf(model, initial);
  /** @type {Shown | null} */
  let shown = null;

  const views = panelsOf();
  const outcome = verdict();
  const facts = element("p", { class: "facts" });
  const controls = controlsOf(model, state, initial, () => shown);
  const work = workLine(model, el);

  const redraw = eachFrame(() => {
    if (!shown) return;
    const start = performance.now();
    const now = state();
    if (shown.sigma !== now.sigma) Object.assign(shown, { sigma: now.sigma, blurred: shown.blur(now.sigma) });
    outcome.show(drawPanels(views, shown, now));
    facts.replaceChildren(...factsOf(shown.state.method, now.strategy));
    el.dataset.redraw = (performance.now() - start).toFixed(1);
  });
  const receive = (received) => {
    shown = received;
    el.toggleAttribute("data-boxless", !received.state.photograph.boxes.length);
    redraw();
  };
  const fail = (error) => {
    for (const [trait, value] of Object.entries(shown?.state.chosen ?? {})) put(model, trait, value);
    work.say(error.message === "cancelled" ? "Cancelled." : error.message);
  };
  const request = requests(model, work.wait, receive, fail);
  const settle = () => {
    const now = state();
    controls.set(now);
    request(now, shown?.state.map);
    redraw();
  };
  const fill = () => {
    controls.fill();
    settle();
  };

  const heard = TRAITS.map((trait) => [`change:${trait}`, settle]);
  heard.push(["change:about", fill], ["msg:custom", work.hear]);
  for (const [event, listener] of heard) model.on(event, listener);
  const columns = columnsOf(views, controls, model.get("live") ? takePictures(model, el, work.say) : null);
  const known = element("div", {}, outcome.root, facts, notice ? element("p", { class: "facts" }, notice) : null);
  const result = element("div", { class: "result" }, known, controls.held);
  el.append(columns, work.root, result);
  fill();
  return () => heard.forEach(([event, listener]) => model.off(event, listener));
}

// State

/** @returns {State} */
function stateOf(model, initial) {
  const about = model.get("about");
  const named = (all, name) => all.find((each) => each.name === name) ?? all[0];
  const photograph = named(about.photographs, model.get("photograph"));
  const method = named(about.methods, model.get("method"));
  const layers = method.layered ? layersAtHand(model, `map/${photograph.name}/${method.name}/`, initial) : "";
  const strategy = oneOf(Object.keys(KEPT), model.get("strategy"));
  return {
    photograph,
    method,
    layers,
    strategy,
    sigma: onGrid(model.get("sigma"), [...about.sigmas, 0.1]),
    alpha: onGrid(model.get("alpha"), about.alphas[strategy]),
    opacity: onGrid(model.get("opacity"), [0, 1, 0.01]),
    picture: `picture/${photograph.name}`,
    map: `map/${photograph.name}/${method.name}/${layers}`,
    chosen: Object.fromEntries(["photograph", "method", "layers"].map((trait) => [trait, model.get(trait)])),
  };
}

/** The layers that are chosen, or those nearest to them that there is a map of. */
function layersAtHand(model, prefix, initial) {
  const wanted = parsedRange(model.get("layers")) ?? initial;
  const ranges = rangesAtHand(model, prefix, initial);
  if (ranges) return nearestRange(ranges, wanted.first, wanted.last).layers;
  return wanted.last < model.get("about").activations ? wanted.layers : initial.layers;
}

/** The ranges of layers that a page has maps of; null where any can be computed. */
function rangesAtHand(model, prefix, initial) {
  if (model.get("live")) return null;
  const ranges = [initial, ...model.get("about").ranges];
  const there = ranges.filter((range) => model.has?.(prefix + range.layers) ?? true);
  return there.length ? there : [initial];
}

/** The nearest of the values that a slider can have. */
function onGrid(value, [low, high, step]) {
  const within = Math.min(high, Math.max(low, value || 0));
  return Number((Math.round(within / step) * step).toFixed(6));
}

/** The threshold of another strategy that cuts a map as nearly as it is cut now. */
function sameCut(blurred, now, strategy, grid) {
  const { level, count } = threshold(blurred, now.strategy, now.alpha);
  const alphas = { value: level, percent: count / blurred.length, mean: level / mean(blurred) };
  return onGrid(alphas[strategy], grid);
}

// Maps

/**
 * Asks for photographs and maps, of which only the newest is handed on.
 * @param {(key: string | null) => void} wait for the map of a key, or no longer.
 * @returns {(state: State, current: string | undefined) => void} current is the key of the map that is shown.
 */
function requests(model, wait, receive, fail) {
  let wanted = null;
  let timer = 0;
  const end = (state, then) => {
    if (wanted !== state.map) return;
    wanted = null;
    wait(null);
    then();
  };
  const begin = async (state) => {
    try {
      const [picture, map] = await Promise.all([load(model, state.picture), load(model, state.map)]);
      end(state, () => receive(shownOf(state, picture, map)));
    } catch (error) {
      end(state, () => fail(error));
    }
  };
  return (state, current) => {
    if (state.map === (wanted ?? current)) return;
    clearTimeout(timer);
    wanted = state.map === current ? null : state.map;
    wait(wanted);
    if (wanted) timer = setTimeout(begin, model.get("live") && current ? PATIENCE : 0, state);
  };
}

/** @returns {Shown} */
function shownOf(state, picture, map) {
  const [height, width] = map.shape;
  const blur = blurrer(scaledMap(map), height, width);
  return { state, picture, pixels: pixelsOf(picture, height, width), blur, sigma: null, blurred: null };
}

/** What is being computed and how far, a way to stop it, and what went wrong. */
function workLine(model, el) {
  const status = statusLine();
  const bar = element("progress", { max: 1, "aria-label": "How much of the map is computed" });
  const stop = element("button", { type: "button", onclick: () => model.send({ cancel: key }) }, "Cancel");
  let key = null;
  let timer = 0;
  const tell = () => {
    status.say(model.get("live") ? "Computing the map …" : "Loading the map …");
    bar.hidden = stop.hidden = !model.get("live");
  };
  const wait = (wanted) => {
    key = wanted;
    clearTimeout(timer);
    status.say("");
    bar.hidden = stop.hidden = true;
    bar.removeAttribute("value");
    el.toggleAttribute("data-waiting", key !== null);
    if (key !== null) timer = setTimeout(tell, 300);
  };
  const hear = (message) => {
    if ("progress" in message && message.key === key) bar.value = message.progress;
    if ("error" in message && !("key" in message)) status.say(message.error);
  };
  return { root: element("div", { class: "work" }, status.root, bar, stop), say: status.say, wait, hear };
}

/** The reader's own pictures, chosen or dropped. */
function takePictures(model, el, say) {
  const send = async ([file]) => {
    if (!file) return;
    say(`Reading ${file.name} …`);
    model.send({ upload: file.name }, undefined, [await file.arrayBuffer()]);
  };
  const input = element("input", { type: "file", accept: "image/*", hidden: true, onchange: () => send(input.files) });
  const button = element("button", { type: "button", onclick: () => input.click() }, "Open a picture …");
  const over = (event) => {
    event.preventDefault();
    el.classList.toggle("dropping", event.type === "dragover");
  };
  for (const event of ["dragover", "dragleave", "drop"]) el.addEventListener(event, over);
  el.addEventListener("drop", (event) => send(event.dataTransfer.files));
  return element("div", {}, button, input);
}

// Panels

function panelsOf() {
  const views = {
    photograph: panel("The photograph", 1, 1),
    map: panel("The map", 1, 1),
    overlay: panel("The map over the photograph", 1, 1),
    cut: panel("What is kept; in colours, its largest part", 1, 1),
  };
  views.cut.canvas.classList.add("pixels");
  views.photograph.text.append(keyOf({ true: "true box" }));
  views.cut.text.append(keyOf({ found: "its box", true: "true box" }));
  const boxes = { photograph: boxesOver(views.photograph.canvas), cut: boxesOver(views.cut.canvas) };
  return { ...views, boxes };
}

/** The panels side by side, each above what changes it: a choice, and what is moved or pressed. */
function columnsOf(views, { photograph, method, sigma, opacity, strategy, alpha }, button) {
  const column = (view, ...below) => {
    return element("div", { class: "column" }, view.root, ...below.map((each) => each ?? element("div")));
  };
  return element(
    "div",
    { class: "panels" },
    column(views.photograph, photograph.root, button),
    column(views.map, method.root, sigma.root),
    column(views.overlay, null, opacity.root),
    column(views.cut, strategy.root, alpha.root),
  );
}

/** @returns {number | null} how well the box of the cut's largest part fits; null without a true box. */
function drawPanels(views, { state, picture, pixels, blurred }, now) {
  const { boxes, size: [height, width] } = state.photograph;
  for (const { canvas } of [views.photograph, views.map, views.overlay, views.cut]) resize(canvas, height, width);
  const cut = threshold(blurred, now.strategy, now.alpha);
  const component = largestComponent(cut.mask, height, width);
  drawPicture(views.photograph.canvas, picture);
  drawMap(views.map.canvas, blurred);
  drawOverlay(views.overlay.canvas, pixels, blurred, now.opacity);
  drawCut(views.cut.canvas, pixels, cut.mask, component.mask);

  const real = boxes.map((box) => ({ kind: "true", box }));
  views.boxes.photograph(height, width, real);
  views.boxes.cut(height, width, component.box ? [...real, { kind: "found", box: component.box }] : real);
  describe(views, state, now, { all: blurred.length, kept: cut.count, largest: component.size });
  return boxes.length ? iou(component.box, boxes) : null;
}

function resize(canvas, height, width) {
  if (canvas.height !== height) canvas.height = height;
  if (canvas.width !== width) canvas.width = width;
}

/** What the panels show, in words. */
function describe(views, { photograph, method, layers }, now, { all, kept, largest }) {
  const percent = (count) => `${((100 * count) / all).toFixed(1)} %`;
  const held = layers && `, layers ${layers} held`;
  views.photograph.describe(`Photograph: ${photograph.title}`);
  views.map.describe(`Map by ${method.title}${held}, blurred by ${now.sigma} pixels`);
  views.cut.describe(`${percent(kept)} of the pixels are kept, ${percent(largest)} are in the largest part`);
  views.cut.text.firstChild.data = kept ? "What is kept; in colours, its largest part" : "Nothing is kept";
}

/** What is known of a method: its cost, and its error in Table 1. */
function factsOf({ title, note, errors }, strategy) {
  const words = [`${title} (passes of the network: ${note}).`];
  if (errors?.[strategy]) {
    const [error, low, high] = errors[strategy].map((value) => value.toFixed(2));
    words.push(` Table 1, cut by ${strategy}: error ${error} [${low}, ${high}], n = ${errors.n}.`);
  }
  return words;
}

/** The fit in words, as a length beside the 0.5 that makes a hit, and to be heard: at most twice a second. */
function verdict() {
  const number = element("span", { class: "number" });
  const sign = element("span", { class: "sign" });
  const parts = ["filled", "half"].map((name) => element("div", { class: name }));
  const meter = element("div", { class: "meter" }, ...parts);
  const heard = element("p", { class: "unseen", "aria-live": "polite" });
  const seen = element("div", { class: "verdict", "aria-hidden": "true" }, element("p", {}, number, sign), meter);
  let timer = 0;
  let words = "";
  const announce = () => {
    timer = 0;
    heard.textContent = words;
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

// Controls

function controlsOf(model, state, initial, shown) {
  const set = (trait) => (value) => put(model, trait, value);
  const setLayers = (first, last, moved) => {
    const { photograph, method } = state();
    const ranges = rangesAtHand(model, `map/${photograph.name}/${method.name}/`, initial);
    const weight = { first: 1, last: 1, [moved]: 1000 }; // the handle that was moved counts first
    put(model, "layers", ranges ? nearestRange(ranges, first, last, weight).layers : `${first}-${last}`);
  };
  const setStrategy = (strategy) => {
    const { alphas } = model.get("about");
    if (shown()?.blurred) model.set("alpha", sameCut(shown().blurred, state(), strategy, alphas[strategy]));
    put(model, "strategy", strategy);
  };
  const about = model.get("about");
  const [least, largest] = about.sigmas;
  const pixels = (sigma) => `${sigma.toFixed(1)} pixels`;
  const share = (opacity) => `${Math.round(100 * opacity)} %`;
  const photograph = choice("Photograph", [], "", set("photograph"));
  const method = choice("Method", [], "", set("method"));
  const handles = rangeHandles(setLayers);
  const sigma = slider("Blur σ", { min: least, max: largest, step: 0.1, value: 0, words: pixels }, set("sigma"));
  const opacity = slider("Opacity", { min: 0, max: 1, step: 0.01, value: 0, words: share }, set("opacity"));
  const strategies = Object.keys(KEPT).map((name) => ({ value: name, text: name }));
  const strategy = choice("Cut by", strategies, "value", setStrategy);
  const words = (value) => KEPT[state().strategy](value);
  const alpha = slider("Level α", { min: 0, max: 1, step: 0.05, value: 0, words }, set("alpha"));
  const chosen = (range) => put(model, "layers", range.layers);
  const triangle = about.ranges.length ? rangeTriangle(about.ranges, chosen) : null;

  const setAll = (now) => {
    photograph.set(now.photograph.name);
    method.set(now.method.name);
    sigma.set(now.sigma);
    opacity.set(now.opacity);
    strategy.set(now.strategy);
    [alpha.input.min, alpha.input.max, alpha.input.step] = model.get("about").alphas[now.strategy];
    alpha.set(now.alpha);
    setRanges(now);
  };
  const setRanges = ({ photograph, method, layers }) => {
    held.classList.toggle("absent", !method.layered);
    if (!method.layered) return;
    const { first, last } = parsedRange(layers);
    handles.set(model.get("about").units, first, last);
    const prefix = `map/${photograph.name}/${method.name}/`;
    triangle?.set(layers, (range) => model.get("live") || (model.has?.(prefix + range.layers) ?? true));
  };
  const fill = () => {
    photograph.fill(photographOptions(model.get("about").photographs));
    method.input.replaceChildren(...methodGroups(model.get("about").methods));
  };
  const held = element("div", { class: "held" }, handles.root, triangle?.root);
  return { photograph, method, sigma, opacity, strategy, alpha, held, set: setAll, fill };
}

/** Photographs by their class; with their names where a class comes twice. */
function photographOptions(photographs) {
  const often = (title) => photographs.filter((each) => each.title === title).length > 1;
  return photographs.map(({ name, title }) => ({ value: name, text: often(title) ? `${title} (${name})` : title }));
}

function methodGroups(methods) {
  const group = (label, some) => {
    const options = some.map(({ name, title }) => element("option", { value: name }, title));
    return some.length ? element("optgroup", { label }, ...options) : null;
  };
  const [ours, others] = [true, false].map((wanted) => methods.filter((method) => Boolean(method.ours) === wanted));
  return [group("The paper's", ours), group("Others", others)].filter(Boolean);
}

export default { render };
