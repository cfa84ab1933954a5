// Tools for a map of the reader's own picture: what was found, a box for the fit, a comparison of methods, a PNG file.

import { chart } from "./chart.js";
import { classOf } from "./controls.js";
import { load } from "./data.js";
import { drawMap } from "./drawing.js";
import { element, inPercent, panel, placeOn } from "./elements.js";
import { COMPUTED } from "./in_page.js";
import { blur, iou, largestComponent, threshold } from "./numerics.js";
import { put } from "./state.js";

/** A chart of the margin over the search, and its outcome in words; nothing for a map that was not searched here. */
export function whatWasFound(search, { classes }, { target, towards, layers }) {
  if (!search) return [];
  const { margin, margins, step, steps, probability, rival, rivals } = search;
  const [own, other] = [target, rival].map((index) => classOf(classes, index));
  const values = Array.from({ length: Math.max(steps, step) + 1 }, (_, place) => margins[Math.min(place, step)]);
  const level = towards ? "above 0 the class is reached" : "below 0 the class is lost";
  const curve = chart([{ name: "margin", values, colour: "var(--ours)" }], {
    title: `Margin over the steps of the search; ${level}`,
    x: "step",
    y: "margin",
    level: { value: 0, text: level },
    mark: step,
  });
  const told = (share) => `(${inPercent(share)})`;
  const held = layers ? `with layers ${layers.replace("-", " to ")} held` : "with no layer held";
  const [before, after] = [margins[0], margin].map((each) => each.toFixed(2));
  const why = towards ? `What would make it ${own}? This` : `Why ${own}? Because of this`;
  const how = `${why}: ${held}, ${step} steps take its margin from ${before} to ${after}.`;
  const lost = `What would it be instead? ${other} ${told(rivals)}, and no longer ${own} ${told(probability)}.`;
  const kept = `It is still ${own} ${told(probability)}, before ${other} ${told(rivals)}.`;
  const never = `The network does not see ${own} here: its margin was below zero to begin with.`;
  const reached = `It is ${own} now ${told(probability)}, before ${other} ${told(rivals)}.`;
  const missed = `It is not yet ${own} ${told(probability)}: ${other} is before it ${told(rivals)}.`;
  const already = `The network sees ${own} as it is: nothing had to change.`;
  const left = margins[0] <= 0 ? never : margin <= 0 ? lost : kept;
  const words = `${how} ${towards ? (margins[0] > 0 ? already : margin > 0 ? reached : missed) : left}`;
  return [element("p", {}, words), curve];
}

/** Two coordinates, limited to a picture's side of `length` pixels, the smaller one first. */
function ordered(one, other, length) {
  return [one, other].map((each) => Math.min(Math.max(0, each), length - 1)).sort((a, b) => a - b);
}

/** An input for the reader's own box, which the cut is compared with; drawn on the photograph, or typed as numbers. */
export function ownBox(model, state, canvas) {
  const keep = (box) => {
    const wrong = ![0, 4].includes(box.length) || box.some(Number.isNaN); // no numbers remove the box
    input.setCustomValidity(wrong ? "Four numbers: left, top, right, bottom, in pixels of the picture." : "");
    if (wrong) return input.reportValidity();
    const [height, width] = model.get("about").size;
    const [left, right] = ordered(box[0], box[2], width);
    const [top, bottom] = ordered(box[1], box[3], height);
    const about = model.get("about");
    const { name } = state().photograph;
    const boxes = box.length ? [[left, top, right, bottom]] : [];
    const photographs = about.photographs.map((each) => (each.name === name ? { ...each, boxes } : each));
    put(model, "about", { ...about, photographs });
  };
  const input = element("input", { type: "text", placeholder: "left, top, right, bottom", size: 18 });
  input.addEventListener("change", () => keep(input.value.match(/-?\d+(\.\d+)?|[^\s,;]+/g)?.map(Number) ?? []));
  let start = null;
  const place = (event) => placeOn(canvas, event).map(Math.floor);
  canvas.addEventListener("pointerdown", (event) => {
    if (!state().photograph.own) return;
    start = place(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    keep([...start, ...place(event)]);
  });
  for (const event of ["pointerup", "pointercancel"]) canvas.addEventListener(event, () => (start = null));
  const root = element("label", { class: "box" }, "Your box: drawn over the photograph, or", input);
  const show = ({ photograph }) => {
    root.hidden = !photograph.own;
    canvas.style.touchAction = photograph.own ? "none" : "";
    if (input.ownerDocument.activeElement !== input) input.value = photograph.boxes[0]?.join(", ") ?? "";
  };
  return { root, show };
}

/** A map's key without its layers: maps with other layers may stay, as their captions name the layers. */
const withoutLayers = (key) => key.split("/").toSpliced(3, 1).join("/");

/** Buttons that compare methods on the photograph, and that save the panels. */
export function tools(model, state, size, views, found, settle) {
  const root = element("div", { class: "panels" });
  let compared = []; // {method, view, key, title, values}
  const compare = async () => {
    const { keyOf, held } = state();
    const list = (compared = COMPUTED.flatMap((name) => model.get("about").methods.filter((each) => each.name === name)).map((method) => {
      const { title, layered } = method;
      const words = layered ? `${title}, layers ${held}` : title;
      return { method, view: panel(`${words} …`, ...size), key: keyOf(method), title: words };
    }));
    root.replaceChildren(...compared.map(({ view }) => view.root));
    for (const each of list) {
      if (compared !== list) return; // a newer comparison, or another photograph
      try {
        each.values = Float32Array.from((await load(model, each.key)).values, (value) => value / 65535);
        redraw(state());
      } catch (error) {
        each.view.text.textContent = `${each.title}: ${error.message}`;
        if (error.message === "cancelled") return; // the reader has chosen something else meanwhile
      }
    }
    settle(); // requests the shown map again if the comparison has ended its search
  };
  const redraw = (now) => {
    if (compared.some(({ method, key }) => withoutLayers(now.keyOf(method)) !== withoutLayers(key))) root.replaceChildren(...(compared = []));
    for (const { view, title, values } of compared.filter((each) => each.values)) {
      const blurred = blur(values, ...size, now.sigma);
      drawMap(view.canvas, blurred);
      const { box } = largestComponent(threshold(blurred, now.strategy, now.alpha).mask, ...size);
      const { boxes } = now.photograph;
      view.text.textContent = boxes.length ? `${title}: IoU ${iou(box, boxes).toFixed(3)}` : title;
    }
  };
  const button = (words, onclick) => element("button", { type: "button", onclick }, words);
  return { root, redraw, buttons: [button("Compare methods", compare), button("Save as PNG", () => save(views, found))] };
}

/** Save the panels side by side, with their captions, in a PNG file. */
function save(views, found) {
  const panels = [views.photograph, views.map, views.overlay, views.cut];
  const [{ width, height }] = panels.map(({ canvas }) => canvas);
  const whole = element("canvas", { width: panels.length * (width + 10) + 10, height: height + 60 });
  const context = whole.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, whole.width, whole.height);
  context.font = "12px sans-serif";
  panels.forEach(({ canvas, root, text }, index) => {
    const left = 10 + index * (width + 10);
    context.drawImage(canvas, left, 10);
    context.fillStyle = "black";
    context.fillText(text.firstChild.data, left, height + 28, width);
    for (const rect of root.querySelectorAll("rect:not(.halo)")) {
      context.strokeStyle = getComputedStyle(rect).stroke;
      context.strokeRect(left + rect.x.baseVal.value, 10 + rect.y.baseVal.value, rect.width.baseVal.value, rect.height.baseVal.value);
    }
  });
  context.fillText(found.querySelector("p")?.textContent ?? "", 10, height + 50, whole.width - 20);
  element("a", { href: whole.toDataURL(), download: "perceptual-ball.png" }).click();
}
