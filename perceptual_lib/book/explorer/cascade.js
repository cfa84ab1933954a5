// The sanity check (Sec. 4.5): a photograph's map while the network forgets, layer after layer.

import {
  chart, choice, COMPARED, drawMap, drawPicture, element, keepInAddress, load, newestOnly, oneOf, panel, pixelsOf,
  playButton, put, slider, statusLine, swatch,
} from "./common.js";

const TRAITS = ["photograph", "method", "stage"];
const [OWN, MEAN] = COMPARED;

function render({ model, el }) {
  el.classList.add("explorer");
  keepInAddress(model, "cascade", TRAITS);
  const about = model.get("about");
  const [height, width] = about.size;
  const photographs = about.photographs.map(({ value }) => value);
  const last = about.stages.length - 1;
  const columns = Math.ceil(Math.sqrt(about.stages.length));
  const forgotten = (stage) => (stage === 0 ? "nothing" : `down to ${about.stages[stage]}`);

  const state = () => ({
    photograph: oneOf(photographs, model.get("photograph")),
    method: oneOf(about.methods, model.get("method")),
    stage: Math.max(0, Math.min(last, Math.round(model.get("stage")))),
  });

  const set = (trait) => (value) => put(model, trait, value);
  const methods = about.methods.map((method) => ({ value: method, text: method.replaceAll("_", " ") }));
  const photograph = choice("Photograph", about.photographs, photographs[0], set("photograph"));
  const method = choice("Method", methods, about.methods[0], set("method"));
  const stage = slider("Forgotten", { min: 0, max: last, step: 1, value: 0, words: forgotten }, set("stage"));
  const captions = ["The photograph", "Map of the trained network", "Map of the network now"];
  const [picture, trained, now] = captions.map((caption) => panel(caption, height, width));
  const curves = element("div");
  const readout = element("p", { class: "readout" });
  const mean = element("p", { class: "readout" });
  const status = statusLine();

  const arrays = async () => {
    const chosen = state();
    photograph.set(chosen.photograph);
    method.set(chosen.method);
    stage.set(chosen.stage);
    const keys = [`picture/${chosen.photograph}`, `maps/${chosen.photograph}/${chosen.method}`];
    return [chosen, ...(await Promise.all(keys.map((key) => load(model, key))))];
  };

  const drawStage = (canvas, maps, index) => {
    const pixels = pixelsOf(maps, height, width, index, columns);
    drawMap(canvas, Float32Array.from({ length: height * width }, (_, place) => pixels[4 * place]), 255);
  };

  const show = ([chosen, photo, maps]) => {
    drawPicture(picture.canvas, photo);
    drawStage(trained.canvas, maps, 0);
    drawStage(now.canvas, maps, chosen.stage);
    picture.describe(`${chosen.photograph}, as the network sees it`);
    trained.describe(`${chosen.method} map of ${chosen.photograph} by the trained network`);
    now.describe(`The same with ${forgotten(chosen.stage)} forgotten`);
    now.text.textContent = chosen.stage === 0 ? "Nothing is forgotten" : `Forgotten ${forgotten(chosen.stage)}`;
    tell(chosen);
  };

  /** Numbers and curves. */
  const tell = (chosen) => {
    const { correlation, ssim } = about.measures[chosen.photograph][chosen.method];
    const all = about.means[chosen.method];
    const own = { name: chosen.photograph, values: correlation, ...OWN };
    const drawn = chart(all ? [own, { name: about.run, values: all.value, band: all, ...MEAN }] : [own], {
      title: `Rank correlation with the trained network's map over the layers forgotten, ${chosen.method}`,
      x: "layers forgotten, from the top",
      y: "rank correlation",
      low: Math.min(0, ...correlation, ...(all?.low ?? [])),
      high: 1,
    });
    drawn.mark(chosen.stage);
    curves.replaceChildren(drawn.root);
    const [rank, likeness] = [correlation, ssim].map((values) => element("b", {}, values[chosen.stage].toFixed(2)));
    const where = ` This photograph, ${chosen.stage} of ${last} layers forgotten: rank correlation `;
    readout.replaceChildren(swatch(OWN), where, rank, ", SSIM ", likeness);
    mean.replaceChildren();
    if (!all) return;
    const [value, low, high] = ["value", "low", "high"].map((name) => all[name][chosen.stage].toFixed(2));
    mean.append(swatch(MEAN), ` Mean of ${about.run}: ${value} (${low} to ${high}), n = ${all.n} photographs`);
  };

  const refresh = newestOnly(status, arrays, show);
  for (const trait of TRAITS) model.on(`change:${trait}`, refresh);
  const controls = [photograph.root, method.root, stage.root, playButton(stage, 500)];
  el.replaceChildren(
    element("div", { class: "controls" }, ...controls),
    element("div", { class: "panels" }, ...[picture, trained, now].map(({ root }) => root)),
    curves,
    readout,
    mean,
    status.root,
  );
  refresh();
}

export default { render };
