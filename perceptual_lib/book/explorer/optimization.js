// Two searches for a perturbation (Sec. 3.3), step by step: the change, the margin, the picture.

import { chart, COMPARED, swatch } from "./chart.js";
import { pixelsOf } from "./data.js";
import { drawTile, paint } from "./drawing.js";
import { element, panel, playButton, slider } from "./elements.js";
import { player, setter } from "./player.js";

const STYLES = COMPARED.toReversed(); // the search without the perceptual term comes first

/** The index of the last of the ascending steps that is not after this one. */
const placeOfStep = (steps, step) => Math.max(0, steps.findLastIndex((each) => each <= step));

function render(view) {
  const { steps, size, ...about } = view.model.get("about");
  const set = setter(view.model);
  const paths = Object.entries(about.paths);
  const last = steps.at(-1);

  const words = (place) => `${steps[place]} of ${last}`;
  const places = slider("Step", [0, steps.length - 1, 1], words, (place) => set("step")(steps[place]));
  const controls = {
    step: {
      ...places,
      set: (step) => places.set(steps.indexOf(step)),
      valid: (step) => steps[placeOfStep(steps, Math.round(step))],
      button: playButton(places, 250),
    },
    magnification: slider("Change in the picture", [1, 50, 1], (value) => `${value} ×`, set("magnification")),
  };
  const sizes = paths.map(([name]) => panel(`Size of the change, ${name}`, ...size));
  const pictures = paths.map(([name]) => panel(`The picture, ${name}`, ...size));
  const curves = element("div");
  const readouts = paths.map(() => element("p", { class: "readout" }));

  const show = (now, picture, ...loaded) => {
    const pixels = pixelsOf(picture, ...size);
    paths.forEach(([name, path], index) => {
      drawPath(now, pixels, index, path, loaded[index], loaded[paths.length + index]);
      sizes[index].describe(`Size of the change in ${now.photograph} at step ${now.step}, ${name}`);
      const times = now.magnification === 1 ? "" : `, ${now.magnification} × the change`;
      pictures[index].text.textContent = `The picture, ${name}${times}`;
      pictures[index].describe(`${now.photograph} with ${now.magnification} times the change, ${name}`);
      readouts[index].replaceChildren(swatch(STYLES[index]), `${name}, step ${now.step}`, ...toldOf(path, now));
    });
    const lines = paths.map(([name, path], index) => {
      const margins = path.margins[now.photograph];
      const values = Array.from({ length: last + 1 }, (_, step) => margins[Math.min(step, margins.length - 1)]);
      return { name, values, ...STYLES[index] };
    });
    const drawn = chart(lines, {
      title: "Margin over the steps of the search; below zero the class is lost",
      x: "step",
      y: "margin",
      level: { value: 0, text: "below 0 the class is lost" },
      mark: now.step,
    });
    curves.replaceChildren(drawn);
  };

  /** Draw the size of the change, and the picture with the change; in `changes`, 127.5 stands for no change. */
  const drawPath = (now, pixels, index, path, changeSizes, changes) => {
    const count = path.steps.length;
    const place = placeOfStep(path.steps, now.step);
    drawTile(sizes[index].canvas, changeSizes, place, count);
    const change = pixelsOf(changes, ...size, place, Math.ceil(Math.sqrt(count)));
    const scale = 2 * path.limits[now.photograph][place] * now.magnification;
    paint(pictures[index].canvas, (data, at) => {
      for (let part = 4 * at; part < 4 * at + 3; part++) data[part] = pixels[part] + (change[part] - 127.5) * scale;
    });
  };

  const keys = ({ photograph }) => {
    const kinds = ["sizes", "changes"].flatMap((kind) => paths.map(([name]) => `${kind}/${photograph}/${name}`));
    return [`picture/${photograph}`, ...kinds];
  };
  player(view, "optimisation", controls, { panels: [...sizes, ...pictures], below: [curves, ...readouts], keys, show });
}

/** The state of a search at a step, in words. */
function toldOf({ steps, margins, sizes }, { photograph, step }) {
  const end = steps.at(-1);
  const margin = margins[photograph][Math.min(step, end)];
  const size = sizes[photograph][placeOfStep(steps, step)];
  const outcome = margin <= 0 ? "class flipped" : "class kept";
  const before = step > end ? ` (ended at step ${end}): margin ` : ": margin ";
  const [number, words] = [margin.toFixed(2), outcome].map((text) => element("b", {}, text));
  return [before, number, ", ", words, `, size of the change ${size.toPrecision(2)}`];
}

export default { render };
