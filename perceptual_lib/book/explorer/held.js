// More and more layers held (Fig. 1): the map, and the classes that the network predicts for the changed picture.

import { drawPicture, drawTile } from "./drawing.js";
import { element, inPercent, panel, playButton, slider } from "./elements.js";
import { player, setter } from "./player.js";

function render(view) {
  const { stops, before, size } = view.model.get("about");
  const places = slider("Layers held", [0, stops.length - 1, 1], (place) => stops[place].held, setter(view.model)("held"));
  const controls = { held: { ...places, button: playButton(places, 700) } };
  const [picture, map] = ["The photograph", "Where it must change"].map((words) => panel(words, ...size));
  const [seen, becomes] = [element("div", { class: "likely" }), element("div", { class: "likely" })];
  picture.root.append(seen);
  map.root.append(becomes);
  seen.replaceChildren(...barsOf(before, before));

  const show = (now, photograph, maps) => {
    const { held, likely } = stops[now.held];
    drawPicture(picture.canvas, photograph);
    drawTile(map.canvas, maps, now.held, stops.length);
    picture.describe(`A photograph of a ${before[0][0]}`);
    map.describe(`Size of the smallest change, layers held: ${held}`);
    becomes.replaceChildren(...barsOf(likely, before));
  };
  const keys = ({ photograph }) => [`picture/${photograph}`, `maps/${photograph}`];
  player(view, "held", controls, { panels: [picture, map], below: [], keys, show });
}

/** The likeliest classes as bars; the photograph's own stands out. */
function barsOf(likely, [[own]]) {
  return likely.map(([name, share]) => {
    const bar = element("span", { class: name === own ? "bar own" : "bar" }, `${name}, ${inPercent(share)}`);
    bar.style.setProperty("--share", share);
    return bar;
  });
}

export default { render };
