// Layers, blur and thresholds (Secs. 3 and 4.2): a photograph, its map, what a cut of the map keeps, and how it fits.

import { controlsOf, strategies } from "./controls.js";
import { pixelsOf } from "./data.js";
import { element } from "./elements.js";
import { explainInPage, methodsFor } from "./in_page.js";
import { blur } from "./numerics.js";
import { ownBox, tools, whatWasFound } from "./own.js";
import { nearestRange, parsedRange } from "./ranges.js";
import { requests, takePictures, workLine } from "./requests.js";
import { eachFrame, keepInAddress, onGrid, oneOf, put } from "./state.js";
import { drawPanels, factsOf, panelsOf, verdict } from "./views.js";

const TRAITS = ["photograph", "target", "aim", "method", "layers", "sigma", "strategy", "alpha", "opacity"];

function render({ model, el, signal }) {
  el.classList.add("explorer");
  const { activations, kernel, methods, notice, size, tried } = model.get("about");
  if (!methods.length) return void el.append("No map was computed here before this page was made, and a page computes none.");
  if (model.isStatic && kernel?.pieces) explainInPage(model);
  const traits = [...TRAITS, ...Object.keys(tried)];
  const own = parsedRange(model.get("layers")) ?? parsedRange(`0-${Math.max(0, activations - 1)}`);
  keepInAddress(model, model.get("address"), traits);
  const ranges = (maps, live) => rangesAtHand(model, maps, live, own);
  const state = () => stateOf(model, own, ranges);
  let shown = null;
  let settled; // the key of the map that is shown, unless its search is still running
  const searches = new Map(); // key of a map -> the last report of its search, with all margins so far

  const views = panelsOf(size);
  const outcome = verdict();
  const facts = element("p", { class: "facts" });
  const controls = controlsOf(model, state, own, ranges, () => shown);
  const work = workLine(model, el);

  const redraw = eachFrame(() => {
    if (!shown) return;
    const start = performance.now();
    const now = state();
    if (shown.state.photograph.name === now.photograph.name) shown.state.photograph = now.photograph; // with a new box
    for (const key of el.querySelectorAll(".key-true")) key.hidden = !shown.state.photograph.boxes.length;
    if (shown.sigma !== now.sigma) {
      Object.assign(shown, { sigma: now.sigma, blurred: blur(shown.values, ...size, now.sigma) });
    }
    outcome.show(drawPanels(views, size, shown, now));
    found.replaceChildren(...whatWasFound(searches.get(shown.state.map), model.get("about"), shown.state));
    toolbox.redraw(now);
    facts.replaceChildren(...factsOf(model.get("about"), shown.state, now.strategy));
    el.dataset.redraw = (performance.now() - start).toFixed(1);
  });
  const show = (state, pixels, values) => {
    const map = Float32Array.from(values, (value) => value / 65535);
    shown = { state, pixels, values: map, sigma: null, blurred: null };
    redraw();
  };
  const receive = (state, picture, { values }) => {
    settled = state.map;
    show(state, pixelsOf(picture, ...size), values);
  };
  const hear = (message, buffers) => {
    work.hear(message);
    if (!("margin" in message)) return;
    const margins = message.step ? (searches.get(message.key)?.margins ?? []) : [];
    margins[message.step] = message.margin;
    searches.set(message.key, { ...message, margins });
    if (message.key !== work.awaited() || !buffers.length) return;
    el.removeAttribute("data-waiting");
    settled = undefined;
    const [map, seen] = buffers.map(({ buffer, byteOffset, byteLength }) => buffer.slice(byteOffset, byteOffset + byteLength));
    show(state(), new Uint8ClampedArray(seen), new Uint16Array(map));
  };
  const fail = (error) => {
    for (const [trait, value] of Object.entries(shown?.state.chosen ?? {})) put(model, trait, value);
    work.say(error.message === "cancelled" ? "Cancelled." : error.message);
  };
  const request = requests(model, work, receive, fail);
  const settle = () => {
    const now = state();
    controls.set(now);
    box.show(now);
    request(now, settled);
    redraw();
  };
  const fill = () => {
    controls.fill();
    settle();
  };

  for (const trait of traits) model.on(`change:${trait}`, settle);
  model.on("change:about", fill);
  model.on("msg:custom", hear);
  const found = element("div");
  const known = element("div", {}, outcome.root, found, facts, notice ? element("p", { class: "facts" }, notice) : null);
  const pictures = model.get("live") || kernel ? takePictures(model, el, work.say, signal) : null;
  const box = ownBox(model, state, views.photograph.canvas);
  const toolbox = tools(model, state, size, views, found, settle);
  const result = element("div", { class: "result" }, known, controls.held);
  el.append(
    controls.strip,
    columnsOf(views, controls, pictures),
    element("div", { class: "tools" }, controls.target.root, controls.aim.root, box.root, ...toolbox.buttons),
    work.root,
    toolbox.root,
    result,
  );
  fill();
}

/** The panels side by side, each above its controls: a choice, buttons or handles, and a slider. */
function columnsOf(views, { photograph, method, handles, sigma, opacity, strategy, alpha }, button) {
  const below = [
    [views.photograph, photograph.root, button, null],
    [views.map, method.root, handles, sigma.root],
    [views.overlay, null, null, opacity.root],
    [views.cut, strategy.root, null, alpha.root],
  ];
  const columns = below.map(([view, ...parts]) => {
    return element("div", { class: "column" }, view.root, ...parts.map((part) => part ?? element("div")));
  });
  return element("div", { class: "panels" }, ...columns);
}

/** The reader's choices; where one cannot be shown, what is shown instead. */
function stateOf(model, own, ranges) {
  const about = model.get("about");
  const found = (all, name) => all.find((each) => each.name === name) ?? all[0];
  const photograph = found(about.photographs, model.get("photograph"));
  const method = found(methodsFor(model, photograph), model.get("method"));
  const live = model.get("live") || Boolean(photograph.own);
  const known = (index) => (Object.hasOwn(about.classes, index) && index !== "length") || photograph.classes.some(([each]) => `${each}` === index);
  const target = live && known(model.get("target")) ? model.get("target") : `${photograph.target}`;
  const towards = live && model.get("aim") === "towards";
  const asked = ({ ours }) => {
    if (towards && ours) return `/${target}/towards`;
    return target === `${photograph.target}` ? "" : `/${target}`;
  };
  const tried = Object.entries(about.tried).map(([name, values]) => [name, oneOf(values, model.get(name))]);
  const settings = tried.map(([, value]) => ` ${value}`).join("");
  const named = ({ name, layered }) => `map/${photograph.name}/${name}${layered ? settings : ""}/`;
  const maps = method.layered ? named(method) : `map/${photograph.name}/perceptual${settings}/`;
  const held = layersAtHand(model, own, ranges(maps, live));
  const keyOf = (one) => `${named(one)}${one.layered ? held : ""}${asked(one)}`;
  const strategy = oneOf(strategies, model.get("strategy"));
  return {
    photograph,
    target,
    towards: towards && method.ours, // whether the change is to reach the class, not to leave it
    live, // whether maps can be computed
    method,
    held, // the layers that methods hold, if they hold any
    layers: method.layered ? held : "",
    strategy,
    sigma: onGrid(model.get("sigma"), [0, 30, 0.1]),
    alpha: onGrid(model.get("alpha"), about.alphas[strategy]),
    opacity: onGrid(model.get("opacity"), [0, 1, 0.01]),
    picture: `picture/${photograph.name}`,
    maps,
    map: keyOf(method),
    keyOf, // the key of another method's map
    tried: Object.fromEntries(tried),
    // The traits that led to this state, to be restored if its map fails.
    chosen: Object.fromEntries(
      ["photograph", "target", "aim", "method", "layers", ...tried.map(([name]) => name)].map((trait) => [trait, model.get(trait)]),
    ),
  };
}

/** The chosen layers, or the nearest range of layers that has a map. */
function layersAtHand(model, own, ranges) {
  const wanted = parsedRange(model.get("layers")) ?? own;
  if (ranges) return nearestRange(ranges, wanted.first, wanted.last).layers;
  return wanted.last < model.get("about").activations ? wanted.layers : own.layers;
}

/** The ranges of layers that a page has maps of; null if any map can be computed. */
function rangesAtHand(model, prefix, live, own) {
  if (live) return null;
  const ranges = [own, ...model.get("about").ranges];
  const there = ranges.filter((range) => model.has?.(prefix + range.layers) ?? true);
  return there.length ? there : [own];
}

export default { render };
