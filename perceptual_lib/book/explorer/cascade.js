// The sanity check (Sec. 4.5): a photograph's map while the network forgets, layer after layer.

import { chart, COMPARED, swatch } from "./chart.js";
import { drawPicture, drawTile } from "./drawing.js";
import { choice, element, panel, playButton, slider } from "./elements.js";
import { player, setter } from "./player.js";

const [OWN, MEAN] = COMPARED;

function render(view) {
  const about = view.model.get("about");
  const set = setter(view.model);
  const last = about.stages.length - 1;
  const forgotten = (stage) => (stage === 0 ? "nothing" : `down to ${about.stages[stage]}`);
  const methods = about.methods.map((method) => ({ value: method, text: method.replaceAll("_", " ") }));
  const stage = slider("Forgotten", [0, last, 1], forgotten, set("stage"));
  const controls = {
    method: choice("Method", methods, set("method")),
    stage: { ...stage, button: playButton(stage, 1500) },
  };
  const captions = ["The photograph", "Map of the trained network", "Map of the network now"];
  const panels = captions.map((caption) => panel(caption, ...about.size));
  const [picture, trained, present] = panels;
  const curves = element("div");
  const readout = element("p", { class: "readout" });
  const mean = element("p", { class: "readout" });

  const show = (now, photo, maps) => {
    drawPicture(picture.canvas, photo);
    drawTile(trained.canvas, maps, 0, last + 1);
    drawTile(present.canvas, maps, now.stage, last + 1);
    picture.describe(`${now.photograph}, as the network sees it`);
    trained.describe(`${now.method} map of ${now.photograph} by the trained network`);
    present.describe(`The same with ${forgotten(now.stage)} forgotten`);
    present.text.textContent = now.stage === 0 ? "Nothing is forgotten" : `Forgotten ${forgotten(now.stage)}`;
    tell(now);
  };

  /** Show the numbers and curves. */
  const tell = ({ photograph, method, stage }) => {
    const { correlation, ssim } = about.measures[photograph][method];
    const all = about.means[method];
    const own = { name: photograph, values: correlation, ...OWN };
    const drawn = chart(all ? [own, { name: about.run, values: all.value, band: all, ...MEAN }] : [own], {
      title: `Rank correlation with the trained network's map over the layers forgotten, ${method}`,
      x: "layers forgotten, from the top",
      y: "rank correlation",
      low: Math.min(0, ...correlation, ...(all?.low ?? [])),
      high: 1,
      mark: stage,
    });
    curves.replaceChildren(drawn);
    const [rank, likeness] = [correlation, ssim].map((values) => element("b", {}, values[stage].toFixed(2)));
    const where = `This photograph, ${stage} of ${last} layers forgotten: rank correlation `;
    readout.replaceChildren(swatch(OWN), where, rank, ", SSIM ", likeness);
    mean.replaceChildren();
    if (!all) return;
    const [value, low, high] = [all.value, all.low, all.high].map((line) => line[stage].toFixed(2));
    mean.append(swatch(MEAN), `Mean of ${about.run}: ${value} (${low} to ${high}), n = ${all.n} photographs`);
  };

  const keys = ({ photograph, method }) => [`picture/${photograph}`, `maps/${photograph}/${method}`];
  player(view, "cascade", controls, { panels, below: [curves, readout, mean], keys, show });
}

export default { render };
