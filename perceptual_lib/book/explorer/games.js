// The insertion and deletion games (Sec. 4.3), step by step, two maps side by side.

import { chart, COMPARED, swatch } from "./chart.js";
import { pixelsOf } from "./data.js";
import { paint } from "./drawing.js";
import { choice, element, panel, playButton, slider } from "./elements.js";
import { player, setter } from "./player.js";

const SIDES = ["left", "right"];
const GAMES = { deletion: "deletion: to mean grey", insertion: "insertion: from blurred" };
const RULES = {
  deletion: "The most salient pixels become mean grey. A good map's curve falls early: a small area is good.",
  insertion: "The most salient pixels come back. A good map's curve rises early: a large area is good.",
};

/**
 * Draw the picture after `done` steps.
 * @param {{low: number, high: number, values: Uint16Array}} steps at which each pixel changes.
 * @param {Uint8ClampedArray} start, finish: red, green, blue and 255 of each pixel.
 */
function drawFrame(canvas, { low, high, values }, done, start, finish) {
  paint(canvas, (data, index) => {
    const changes = Math.round(low + (values[index] * (high - low)) / 65535);
    const source = changes <= done ? finish : start;
    for (let part = 4 * index; part < 4 * index + 3; part++) data[part] = source[part];
  });
}

function render(view) {
  const about = view.model.get("about");
  const set = setter(view.model);
  const [height, width] = about.size;
  const last = about.curves[about.photographs[0].name][about.rows[0]].deletion.values.length - 1;
  const percent = (step) => `${Math.round(100 * Math.min(1, (step * about.pixels) / (height * width)))} %`;
  const grey = Uint8ClampedArray.from({ length: 4 * height * width }, (_, index) => about.grey[index % 4]);

  const rows = about.rows.map((row) => ({ value: row, text: row }));
  const step = slider("Changed", [0, last, 1], (value) => `${percent(value)} of the pixels`, set("step"));
  const controls = {
    game: choice("Game", Object.entries(GAMES).map(([value, text]) => ({ value, text })), set("game")),
    left: choice("Map on the left", rows, set("left")),
    right: choice("Map on the right", rows, set("right")),
    step: { ...step, button: playButton(step) },
  };
  const panels = SIDES.map((side) => panel(`The picture by the map on the ${side}`, height, width));
  const curves = element("div");
  const rule = element("p", { class: "readout" });

  const show = (now, picture, blurred, ...steps) => {
    const whole = pixelsOf(picture, height, width);
    const ends = now.game === "deletion" ? [whole, grey] : [pixelsOf(blurred, height, width), whole];
    const sides = SIDES.map((side, index) => {
      return { row: now[side], ...about.curves[now.photograph][now[side]][now.game], ...COMPARED[index] };
    });
    panels.forEach(({ canvas, text, describe }, index) => {
      const { row, values, area, ...style } = sides[index];
      const probability = values[now.step].toFixed(2);
      drawFrame(canvas, steps[index], now.step, ...ends);
      const numbers = ["probability ", element("b", {}, probability), `, area ${area.toFixed(2)}`];
      text.replaceChildren(swatch(style), row, element("br"), ...numbers);
      describe(`${now.photograph}, ${now.game} by ${row}, ${percent(now.step)} changed: probability ${probability}`);
    });
    const drawn = chart(sides.map(({ row, ...side }) => ({ name: row, ...side })), {
      title: `Probability of the class over the pixels changed, ${now.game}: ${now.left} and ${now.right}`,
      x: "pixels changed",
      y: "probability",
      low: 0,
      high: 1,
      steps: [percent(0), percent(last)],
      mark: now.step,
    });
    curves.replaceChildren(drawn);
    rule.textContent = RULES[now.game];
  };

  const keys = ({ photograph, left, right }) => {
    const steps = [left, right].map((row) => `steps/${photograph}/${row}`);
    return [`picture/${photograph}`, `blurred/${photograph}`, ...steps];
  };
  player(view, "games", controls, { panels, below: [curves, rule], keys, show });
}

export default { render };
