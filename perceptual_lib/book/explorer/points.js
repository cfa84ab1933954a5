// The pointing game (Sec. 4.4): the reader points first, then the methods.

import { boxesOver } from "./cuts.js";
import { drawPicture } from "./drawing.js";
import { element, panel, placeOn } from "./elements.js";
import { player } from "./player.js";
import { onGrid, put } from "./state.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STRIDE = 14; // pixels of the scene that an arrow key moves the cross by
const YOU = "you";

/** Pixels from a point to a box [left, top, right, bottom]; 0 inside. */
const distance = ([x, y], [left, top, right, bottom]) =>
  Math.hypot(Math.max(0, left - x, x - right), Math.max(0, top - y, y - bottom));

function render(view) {
  const { model } = view;
  const { questions, methods, tolerance } = model.get("about");
  const names = { [YOU]: "You", ...methods };
  const given = new Map(); // question -> where the reader has pointed
  let cross = null; // where the arrow keys have moved the cross
  let seen = null; // the question whose picture is shown

  const { root, canvas, text, describe } = panel("", 1, 1);
  const boxes = boxesOver(canvas);
  const points = element("svg", { class: "boxes", "aria-hidden": "true" });
  const hint = element("p", { role: "status" });
  const answers = element("ol", { class: "answers" });
  const valid = (question) => onGrid(question, [0, questions.length - 1, 1]);
  const asked = () => valid(model.get("question"));
  const ask = () => put(model, "question", (asked() + 1) % questions.length);
  const next = element("button", { type: "button", onclick: ask }, "Next question");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application"); // else screen readers handle the arrow keys themselves

  /** For the reader and then for each method, whether the point is a hit. */
  const hits = (index) => {
    const { boxes, hits } = questions[index];
    return [boxes.some((box) => distance(given.get(index), box) < tolerance), ...hits];
  };
  const answer = (point) => {
    if (given.has(asked()) || seen !== asked()) return;
    given.set(asked(), point.map(Math.floor));
    cross = null;
    show();
  };
  const mark = ([x, y], label, own) => {
    const { size } = questions[asked()];
    const radius = size[0] / 28;
    const dot = element("circle", { cx: x, cy: y, r: radius, class: own ? "point own" : "point" });
    const word = element("text", { x, y: y + radius * 0.42, "font-size": radius * 1.25 }, label);
    return [dot, word];
  };
  const show = () => {
    const index = asked();
    const { title, size, boxes: real, points: theirs } = questions[index];
    const known = given.has(index);
    text.textContent = `Question ${index + 1} of ${questions.length}: point at the ${title}.`;
    describe(`A scene. ${text.textContent} Arrow keys move the cross, Enter points.`);
    boxes(size[1], size[0], known ? real.map((box) => ({ kind: "true", box })) : []);
    points.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    points.replaceChildren(...(!known && cross ? mark(cross, "+", true) : []));
    answers.replaceChildren();
    const over = given.size === questions.length ? "That was the last question." : "";
    const at = cross ? `The cross is at ${cross.map(Math.floor).join(", ")}.` : "First you; then the methods.";
    hint.textContent = known ? `You ${hits(index)[0] ? "hit" : "miss"} it. ${over}` : at;
    if (!known) return;
    const places = [given.get(index), ...Object.values(theirs)];
    // Drawn in reverse, so that the reader's point is on top; each number follows its disc.
    points.append(...places.map((point, place) => mark(point, place || "You", !place)).reverse().flat());
    const won = [...given.keys()].map(hits);
    answers.append(
      ...Object.values(names).map((name, place) => {
        const hit = hits(index)[place];
        const count = won.filter((each) => each[place]).length;
        const sign = element("span", { class: "sign", "data-outcome": hit ? "hit" : "miss" }, hit ? "✓ hit" : "✗ miss");
        return element("li", { value: place }, `${name} `, sign, ` ${count} of ${won.length}`);
      }),
    );
  };
  const open = ({ question }, picture) => {
    cross = null;
    [canvas.width, canvas.height] = questions[question].size;
    drawPicture(canvas, picture);
    seen = question;
    show();
  };

  canvas.addEventListener("click", (event) => answer(placeOn(canvas, event)));
  canvas.addEventListener("keydown", (event) => {
    if (given.has(asked()) || seen !== asked() || !(event.key in ARROWS || event.key === "Enter")) return;
    event.preventDefault();
    const { width, height } = canvas;
    cross ??= [width / 2, height / 2];
    if (event.key === "Enter") return answer(cross);
    const [x, y] = ARROWS[event.key];
    cross = [onGrid(cross[0] + STRIDE * x, [0, width - 1, 1]), onGrid(cross[1] + STRIDE * y, [0, height - 1, 1])];
    show();
  });
  canvas.after(points);
  const game = { root: element("div", { class: "pointing" }, root, element("div", {}, answers, hint, next)) };
  const keys = ({ question }) => [`picture/${questions[question].scene}`];
  player(view, "pointing", { question: { set() {}, valid } }, { panels: [game], below: [], keys, show: open });
}

export default { render };
