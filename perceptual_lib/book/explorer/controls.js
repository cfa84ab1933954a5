// The controls of the explorer of layers.

import { choice, element, inPercent, slider } from "./elements.js";
import { methodsFor } from "./in_page.js";
import { mean, threshold } from "./numerics.js";
import { nearestRange, parsedRange, rangeHandles, rangeTriangle } from "./ranges.js";
import { onGrid, put } from "./state.js";

/** Strategy -> what a level alpha keeps, in words. */
const KEPT = {
  value: (alpha) => `> ${alpha.toFixed(2)}`,
  percent: (alpha) => `largest ${Math.round(100 * alpha)} %`,
  mean: (alpha) => `> ${alpha.toFixed(2)} × mean`,
};
export const strategies = Object.keys(KEPT);

const RELEASED = "no_perceptual"; // the method that holds no layer

const AIMS = [
  { value: "away", text: "leaves this class" },
  { value: "towards", text: "reaches this class" },
];

/** Settings that may be tried beside the layers, with their labels. */
const SETTINGS = { layer_weight: "Weight λ′", margin_target: "Target T" };

/**
 * @param {() => object} state gives the choices: see layers.js.
 * @param {object} own range of the profile.
 * @param {(maps: string, live: boolean) => object[] | null} ranges with maps, by the start of their keys; null for all.
 * @param {() => object | null} shown gives the map that is shown.
 */
export function controlsOf(model, state, own, ranges, shown) {
  const about = model.get("about");
  const tried = about.ranges.filter(({ role }) => role === "range");
  const settings = Object.entries(about.tried).map(([name, values]) => {
    const moved = (index) => put(model, name, values[index]);
    return { name, values, ...slider(SETTINGS[name], [0, values.length - 1, 1], (index) => values[index], moved) };
  });
  const set = (trait) => (value) => put(model, trait, value);
  let before = ""; // the trait `layers` when no layer was held the last time
  const hold = (layers) => {
    if (!layers) {
      model.set("layers", before);
      return put(model, "method", RELEASED);
    }
    if (state().method.name === RELEASED) {
      before = model.get("layers");
      model.set("method", "perceptual");
    }
    put(model, "layers", layers);
  };
  const setLayers = (first, last, moved) => {
    const known = ranges(state().maps, state().live);
    const weight = { first: 1, last: 1, [moved]: 1000 }; // the end that was moved counts most, and pushes the other
    const free = moved === "first" ? `${first}-${Math.max(first, last)}` : `${Math.min(first, last)}-${last}`;
    hold(known ? nearestRange(known, first, last, weight).layers : free);
  };
  const release = about.methods.some(({ name }) => name === RELEASED) ? () => put(model, "method", RELEASED) : null;
  const setStrategy = (strategy) => {
    if (shown()?.blurred) model.set("alpha", sameCut(shown().blurred, state(), strategy, about.alphas[strategy]));
    put(model, "strategy", strategy);
  };
  const named = (name) => ({ value: name, text: name });
  const setPhotograph = (name) => {
    model.set("target", ""); // the new photograph's own class
    model.set("aim", "away");
    put(model, "photograph", name);
  };
  const setAim = (aim) => {
    const [likeliest, second] = state().photograph.classes.map(([index]) => `${index}`);
    if (aim === "towards" && state().target === likeliest) model.set("target", second); // one not reached yet
    put(model, "aim", aim);
  };
  const controls = {
    photograph: choice("Photograph", [], setPhotograph),
    target: choice("Class explained", [], set("target")),
    aim: choice("The change", AIMS, setAim),
    method: choice("Method", [], set("method")),
    sigma: slider("Blur σ", [0, 30, 0.1], (sigma) => `${sigma.toFixed(1)} pixels`, set("sigma")),
    opacity: slider("Opacity", [0, 1, 0.01], (opacity) => `${Math.round(100 * opacity)} %`, set("opacity")),
    strategy: choice("Cut by", strategies.map(named), setStrategy),
    alpha: slider("Level α", [0, 1, 0.05], (alpha) => KEPT[state().strategy](alpha), set("alpha")),
  };
  const { photograph, target, aim, method, alpha } = controls;
  const handles = rangeHandles(tried, about.activations, own, setLayers, release);
  const triangle = tried.some(({ error }) => error !== null) ? rangeTriangle(tried, () => !state().live, hold) : null;
  const held = element("div", { class: "held" }, ...settings.map(({ root }) => root), triangle?.root);
  const strip = thumbnails(setPhotograph);

  let filled = null; // the photograph whose classes and methods are offered

  const setAll = (now) => {
    if (filled !== now.photograph) {
      filled = now.photograph;
      method.fill(methodOptions(methodsFor(model, filled)));
      target.fill(classOptions(about.classes, filled));
    }
    target.root.hidden = !now.live;
    aim.root.hidden = target.root.hidden || !now.method.ours;
    alpha.setGrid(about.alphas[now.strategy]);
    const names = { photograph: now.photograph.name, method: now.method.name, aim: now.towards ? "towards" : "away" };
    for (const [trait, { set }] of Object.entries(controls)) set(names[trait] ?? now[trait]);
    strip.set(names.photograph);
    const holds = now.method.layered || now.method.name === RELEASED;
    for (const root of [held, handles.root]) root.style.visibility = holds ? "" : "hidden"; // they keep their place
    if (!holds) return;
    handles.set(parsedRange(now.layers), now.photograph.own);
    for (const { name, values, set } of settings) set(values.indexOf(now.tried[name]));
    triangle?.set(now.layers, (layers) => now.live || (model.has?.(now.maps + layers) ?? true));
  };
  const fill = () => {
    const { photographs } = model.get("about");
    photograph.fill(photographOptions(photographs));
    strip.fill(photographs.filter(({ thumbnail }) => thumbnail));
  };
  return { ...controls, handles: handles.root, held, strip: strip.root, set: setAll, fill };
}

/** Photographs as small pictures to choose from, if there are more than two. */
function thumbnails(choose) {
  const root = element("div", { class: "strip", role: "group", "aria-label": "Photographs" });
  const buttons = new Map();
  const fill = (photographs) => {
    buttons.clear();
    for (const { name, title, thumbnail } of photographs.length > 2 ? photographs : []) {
      const image = element("img", { src: thumbnail, class: "dark-light", alt: title });
      buttons.set(name, element("button", { type: "button", title, onclick: () => choose(name) }, image));
    }
    root.replaceChildren(...buttons.values());
  };
  const set = (name) => buttons.forEach((button, each) => button.setAttribute("aria-pressed", each === name));
  return { root, fill, set };
}

/** Options for the methods; the paper's come first. */
function methodOptions(methods) {
  const group = ({ ours }) => (ours ? "The paper's" : "Others");
  const options = methods.map((each) => ({ value: each.name, text: each.title, group: group(each) }));
  return options.sort((one, other) => other.group.localeCompare(one.group));
}

/** Options for the class: the most probable ones, then all others. */
function classOptions(names, { classes }) {
  const likely = classes.map(([index, share]) => ({ value: `${index}`, text: `${classOf(names, index)}, ${inPercent(share)}` }));
  const all = names.map((text, index) => ({ value: `${index}`, text })).filter(({ value }) => likely.every((each) => each.value !== value));
  const grouped = (options, group) => options.map((each) => ({ ...each, group }));
  return [...grouped(likely, "Most probable"), ...grouped(all, "All others")];
}

/** The name of a class, as `Classifier.class_name` gives it. */
export const classOf = (names, index) => names[index] ?? `class ${index}`;

/** Options for the photographs: their classes, with the photograph's name where a class comes twice. */
function photographOptions(photographs) {
  const often = (title) => photographs.filter((each) => each.title === title).length > 1;
  return photographs.map(({ name, title }) => ({ value: name, text: often(title) ? `${title} (${name})` : title }));
}

/** The level of another strategy that cuts a map as nearly as possible as it is cut now. */
function sameCut(blurred, now, strategy, grid) {
  const { level, count } = threshold(blurred, now.strategy, now.alpha);
  const alphas = { value: level, percent: count / blurred.length, mean: level / mean(blurred) };
  return onGrid(alphas[strategy], grid);
}
