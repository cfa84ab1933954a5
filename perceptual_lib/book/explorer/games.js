// The insertion and deletion games (Sec. 4.3), step by step, two maps side by side.

import {
  chart, choice, COMPARED, element, keepInAddress, load, newestOnly, oneOf, panel, pixelsOf, playButton, put, slider,
  statusLine, swatch,
} from "./common.js";

const SIDES = ["left", "right"];
const TRAITS = ["photograph", ...SIDES, "game", "step"];
const GAMES = [
  { value: "deletion", text: "deletion: to mean grey" },
  { value: "insertion", text: "insertion: from blurred" },
];
const RULES = {
  deletion: "The most salient pixels become mean grey. A good map's curve falls early: a small area is good.",
  insertion: "The most salient pixels come back. A good map's curve rises early: a large area is good.",
};

/**
 * The picture when the pixels of so many steps have changed.
 * @param {ImageData} image that is filled.
 * @param {{shape: number[], low: number[], high: number[], values: Uint16Array}} steps at which each pixel changes.
 * @param {Uint8ClampedArray} start, finish: red, green, blue and 255 of each pixel.
 */
function fillFrame(image, steps, done, start, finish) {
  const [low, high] = [steps.low[0], steps.high[0]];
  for (let index = 0; index < steps.values.length; index++) {
    const changes = Math.round(low + (steps.values[index] * (high - low)) / 65535);
    const source = changes <= done ? finish : start;
    for (let part = 4 * index; part < 4 * index + 4; part++) image.data[part] = source[part];
  }
}

function render({ model, el }) {
  el.classList.add("explorer");
  keepInAddress(model, "games", TRAITS);
  const about = model.get("about");
  const [height, width] = about.size;
  const photographs = about.photographs.map(({ value }) => value);
  const last = about.curves[photographs[0]][about.rows[0]].deletion.values.length - 1;
  const changed = (step) => Math.min(1, (step * about.pixels) / (height * width));
  const percent = (step) => `${Math.round(100 * changed(step))} %`;
  const grey = Uint8ClampedArray.from({ length: 4 * height * width }, (_, index) => [...about.grey, 255][index % 4]);

  const state = () => ({
    photograph: oneOf(photographs, model.get("photograph")),
    rows: SIDES.map((side) => oneOf(about.rows, model.get(side))),
    game: oneOf(Object.keys(RULES), model.get("game")),
    step: Math.max(0, Math.min(last, Math.round(model.get("step")))),
  });

  const set = (trait) => (value) => put(model, trait, value);
  const rows = about.rows.map((row) => ({ value: row, text: row }));
  const photograph = choice("Photograph", about.photographs, photographs[0], set("photograph"));
  const game = choice("Game", GAMES, "deletion", set("game"));
  const sides = SIDES.map((side) => choice(`Map on the ${side}`, rows, rows[0].value, set(side)));
  const range = { min: 0, max: last, step: 1, value: 0, words: (step) => `${percent(step)} of the pixels` };
  const step = slider("Changed", range, set("step"));
  const panels = SIDES.map((side) => panel(`The picture by the map on the ${side}`, height, width));
  const curves = element("div");
  const rule = element("p", { class: "readout" });
  const status = statusLine();

  const arrays = async () => {
    const now = state();
    photograph.set(now.photograph);
    game.set(now.game);
    sides.forEach((side, index) => side.set(now.rows[index]));
    step.set(now.step);
    const keys = [`picture/${now.photograph}`, `blurred/${now.photograph}`];
    keys.push(...now.rows.map((row) => `steps/${now.photograph}/${row}`));
    return [now, ...(await Promise.all(keys.map((key) => load(model, key))))];
  };

  const show = ([now, picture, blurred, ...steps]) => {
    const whole = pixelsOf(picture, height, width);
    const ends = now.game === "deletion" ? [whole, grey] : [pixelsOf(blurred, height, width), whole];
    const of = now.rows.map((row) => about.curves[now.photograph][row][now.game]);
    panels.forEach(({ canvas, text, describe }, index) => {
      const context = canvas.getContext("2d");
      const image = context.createImageData(width, height);
      fillFrame(image, steps[index], now.step, ...ends);
      context.putImageData(image, 0, 0);
      const row = now.rows[index];
      const probability = of[index].values[now.step].toFixed(2);
      const area = of[index].area.toFixed(2);
      const numbers = ["probability ", element("b", {}, probability), `, area ${area}`];
      text.replaceChildren(swatch(COMPARED[index]), ` ${row}`, element("br"), ...numbers);
      describe(`${now.photograph}, ${now.game} by ${row}, ${percent(now.step)} changed: probability ${probability}`);
    });
    const drawn = chart(
      now.rows.map((row, index) => ({ name: row, values: of[index].values, ...COMPARED[index] })),
      {
        title: `Probability of the class over the pixels changed, ${now.game}: ${now.rows.join(" and ")}`,
        x: "pixels changed",
        y: "probability",
        low: 0,
        high: 1,
        steps: of[0].values.map((_, index) => percent(index)),
      },
    );
    drawn.mark(now.step);
    curves.replaceChildren(drawn.root);
    rule.textContent = RULES[now.game];
  };

  const refresh = newestOnly(status, arrays, show);
  for (const trait of TRAITS) model.on(`change:${trait}`, refresh);
  const controls = [photograph, game, ...sides, step].map(({ root }) => root);
  el.replaceChildren(
    element("div", { class: "controls" }, ...controls, playButton(step)),
    element("div", { class: "panels" }, ...panels.map(({ root }) => root)),
    curves,
    rule,
    status.root,
  );
  refresh();
}

export default { render };
