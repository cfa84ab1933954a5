// Two searches for a perturbation (Sec. 3.3), step by step: the change, the margin, the picture.

import {
  chart, choice, COMPARED, drawMap, element, keepInAddress, load, newestOnly, oneOf, panel, pixelsOf, playButton, put,
  slider, statusLine, swatch,
} from "./common.js";

const TRAITS = ["photograph", "step", "magnification"];
const STYLES = COMPARED.toReversed(); // without the perceptual term comes first
const MOST = 50;

/** The index of the last of the steps, ascending, that is not behind this one. */
const indexOf = (steps, step) => steps.findLastIndex((each) => each <= step);

function render({ model, el }) {
  el.classList.add("explorer");
  keepInAddress(model, "optimisation", TRAITS);
  const about = model.get("about");
  const [height, width] = about.size;
  const photographs = about.photographs.map(({ value }) => value);
  const paths = Object.entries(about.paths);
  const last = about.steps.at(-1);

  const state = () => ({
    photograph: oneOf(photographs, model.get("photograph")),
    step: about.steps[indexOf(about.steps, Math.max(0, Math.round(model.get("step"))))],
    magnification: Math.max(1, Math.min(MOST, Math.round(model.get("magnification")))),
  });

  const set = (trait) => (value) => put(model, trait, value);
  const photograph = choice("Photograph", about.photographs, photographs[0], set("photograph"));
  const places = { min: 0, max: about.steps.length - 1, step: 1, value: 0 };
  const words = (place) => `${about.steps[place]} of ${last}`;
  const step = slider("Step", { ...places, words }, (place) => put(model, "step", about.steps[place]));
  const times = { min: 1, max: MOST, step: 1, value: 1, words: (value) => `${value} ×` };
  const magnification = slider("Change in the picture", times, set("magnification"));
  const sizes = paths.map(([name]) => panel(`Size of the change, ${name}`, height, width));
  const pictures = paths.map(([name]) => panel(`The picture, ${name}`, height, width));
  const curves = element("div");
  const readouts = paths.map(() => element("p", { class: "readout" }));
  const status = statusLine();

  const arrays = async () => {
    const now = state();
    photograph.set(now.photograph);
    step.set(about.steps.indexOf(now.step));
    magnification.set(now.magnification);
    const kinds = ["sizes", "changes"];
    const keys = [`picture/${now.photograph}`];
    keys.push(...kinds.flatMap((kind) => paths.map(([name]) => `${kind}/${now.photograph}/${name}`)));
    return [now, ...(await Promise.all(keys.map((key) => load(model, key))))];
  };

  const show = ([now, picture, ...loaded]) => {
    const pixels = pixelsOf(picture, height, width);
    paths.forEach(([name, path], index) => {
      const place = indexOf(path.steps, now.step);
      const columns = Math.ceil(Math.sqrt(path.steps.length));
      const size = pixelsOf(loaded[index], height, width, place, columns);
      drawMap(sizes[index].canvas, Float32Array.from({ length: height * width }, (_, at) => size[4 * at]), 255);
      const change = pixelsOf(loaded[paths.length + index], height, width, place, columns);
      const scale = 2 * path.limits[now.photograph][place] * now.magnification;
      drawChanged(pictures[index].canvas, pixels, change, scale);
      const margin = path.margins[now.photograph][Math.min(now.step, path.steps.at(-1))];
      const rms = path.sizes[now.photograph][place];
      const ended = now.step > path.steps.at(-1) ? ` (ended at step ${path.steps.at(-1)})` : "";
      readouts[index].replaceChildren(
        swatch(STYLES[index]), ` ${name}, step ${now.step}${ended}: margin `, element("b", {}, margin.toFixed(2)), ", ",
        element("b", {}, margin <= 0 ? "class flipped" : "class kept"), `, size of the change ${rms.toPrecision(2)}`,
      );
      sizes[index].describe(`Size of the change in ${now.photograph} at step ${now.step}, ${name}`);
      const times = now.magnification === 1 ? "" : `, ${now.magnification} × the change`;
      pictures[index].text.textContent = `The picture, ${name}${times}`;
      pictures[index].describe(`${now.photograph} with ${now.magnification} times the change, ${name}`);
    });
    const drawn = chart(
      paths.map(([name, path], index) => {
        const margins = path.margins[now.photograph];
        const values = Array.from({ length: last + 1 }, (_, at) => margins[Math.min(at, margins.length - 1)]);
        return { name, values, ...STYLES[index] };
      }),
      {
        title: "Margin over the steps of the search; below zero the class is lost",
        x: "step",
        y: "margin",
        level: { value: 0, text: "below 0 the class is lost" },
      },
    );
    drawn.mark(now.step);
    curves.replaceChildren(drawn.root);
  };

  const refresh = newestOnly(status, arrays, show);
  for (const trait of TRAITS) model.on(`change:${trait}`, refresh);
  const controls = [photograph.root, step.root, playButton(step, 250), magnification.root];
  el.replaceChildren(
    element("div", { class: "controls" }, ...controls),
    element("div", { class: "panels" }, ...sizes.map(({ root }) => root), ...pictures.map(({ root }) => root)),
    curves,
    ...readouts,
    status.root,
  );
  refresh();
}

/**
 * A picture and a change, in which 127.5 stands for none.
 * @param {Uint8ClampedArray} pixels, change: four numbers a pixel, of which the last is 255.
 */
function drawChanged(canvas, pixels, change, scale) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let part = 0; part < pixels.length; part++) {
    image.data[part] = part % 4 === 3 ? 255 : pixels[part] + (change[part] - 127.5) * scale;
  }
  context.putImageData(image, 0, 0);
}

export default { render };
