// What all explorers share: data from the model, drawing, labelled controls, the state in the address.

const TIMEOUT = 600_000; // a live kernel may compute for minutes

/**
 * An array or a picture of the model, by its key: computed and sent by Python, or read from the static page.
 * @returns {Promise<{shape: number[], low: number[], high: number[], values: Uint16Array} | HTMLImageElement>}
 *   of maps (..., H, W) the values of 0 to 65535 and what these two stand for, map by map; or a picture.
 */
export function load(model, key) {
  const kept = (model.loaded ??= new Map());
  if (!kept.has(key)) {
    const waiting = new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("no answer from the kernel")), TIMEOUT);
      const listen = (message, buffers) => {
        if (message.key !== key || !("format" in message || "error" in message)) return;
        clearTimeout(timer);
        model.off("msg:custom", listen);
        message.error ? reject(new Error(message.error)) : resolve(decoded(message, buffers[0]));
      };
      model.on("msg:custom", listen);
      model.send({ need: key });
    });
    kept.set(key, waiting);
    waiting.catch(() => kept.delete(key)); // asked again, it is tried again
  }
  return kept.get(key);
}

async function decoded(head, buffer) {
  const bytes = new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, buffer.byteLength);
  if (head.format !== "uint16") {
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([bytes], { type: head.format }));
    await image.decode();
    return image;
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return { ...head, values: new Uint16Array(await new Response(stream).arrayBuffer()) };
}

/** One map of an array (..., H, W), scaled to [0, 1]. */
export function scaledMap(array, index = 0) {
  const size = array.shape.at(-1) * array.shape.at(-2);
  return Float32Array.from(array.values.subarray(index * size, (index + 1) * size), (value) => value / 65535);
}

// Elements

/** An element with properties (`class`, `aria-*`, `data-*` and other attributes, `on...` listeners) and children. */
export function element(tag, properties = {}, ...children) {
  const svg = ["svg", "path", "line", "rect", "circle", "text", "g", "title", "polyline"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

let count = 0;
const fresh = () => `explorer-${Date.now().toString(36)}-${count++}`;

/** A labelled slider that shows its value in words. `set` moves it without calling `changed`. */
export function slider(label, { min, max, step, value, words = String }, changed) {
  const id = fresh();
  const input = element("input", { type: "range", id, min, max, step });
  const output = element("output", { for: id });
  const set = (now) => {
    input.value = now;
    const text = words(Number(input.value));
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };
  input.addEventListener("input", () => {
    set(input.value);
    changed(Number(input.value));
  });
  set(value);
  const root = element("div", { class: "control" }, element("label", { for: id }, label), output, input);
  return { root, input, set };
}

/** A labelled choice among options [{value, text}] . `set` chooses without calling `changed`. */
export function choice(label, options, value, changed) {
  const id = fresh();
  const input = element("select", { id, onchange: () => changed(input.value) });
  const fill = (list) => input.replaceChildren(...list.map((each) => element("option", { value: each.value }, each.text)));
  const set = (now) => (input.value = now);
  fill(options);
  set(value);
  return { root: element("div", { class: "control" }, element("label", { for: id }, label), input), input, set, fill };
}

/** A button that plays a slider from its place to its end; still, one step a press, for readers who want no motion. */
export function playButton(control, milliseconds = 120) {
  let timer = 0;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const button = element("button", { type: "button", class: "play", onclick: () => (timer ? stop() : start()) }, "Play");
  const step = () => {
    const { input } = control;
    if (Number(input.value) >= Number(input.max)) return false;
    input.value = Number(input.value) + Number(input.step);
    input.dispatchEvent(new Event("input"));
    return true;
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = still.matches ? "Step" : "Play";
  };
  const start = () => {
    if (!step()) {
      control.input.value = control.input.min;
      control.input.dispatchEvent(new Event("input"));
    }
    if (still.matches) return;
    button.textContent = "Pause";
    timer = setInterval(() => step() || stop(), milliseconds);
  };
  stop();
  control.input.addEventListener("pointerdown", stop);
  return button;
}

/** A panel: a canvas of (height, width) pixels with its caption, described in words for those who do not see it. */
export function panel(caption, height, width) {
  const canvas = element("canvas", { height, width, role: "img", "aria-label": caption });
  const text = element("figcaption", {}, caption);
  const describe = (words) => {
    canvas.setAttribute("aria-label", words);
  };
  return { root: element("figure", { class: "panel" }, canvas, text), canvas, text, describe };
}

// Drawing

/** Matplotlib's inferno at 33 places, between which it is all but linear. */
const INFERNO = (
  "000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 57106e 64156e 71196e 7d1e6d 8a226a 972766 a32c61 b0315b " +
  "bc3754 c73e4c d24644 db503b e45a31 eb6628 f1731d f68013 f98e09 fb9d07 fcac11 fbbc21 f9cb35 f5db4c f2ea69 f3f68a " +
  "fcffa4"
)
  .split(" ")
  .map((hex) => [0, 2, 4].map((start) => parseInt(hex.slice(start, start + 2), 16)));

/** Red, green and blue of 256 values. */
export const COLOURS = Uint8ClampedArray.from({ length: 256 * 3 }, (_, index) => {
  const place = (Math.floor(index / 3) / 255) * (INFERNO.length - 1);
  const [low, high] = [INFERNO[Math.floor(place)], INFERNO[Math.min(Math.floor(place) + 1, INFERNO.length - 1)]];
  return low[index % 3] + (place % 1) * (high[index % 3] - low[index % 3]);
});

/** One palette in the whole book: see figures.py. */
export const PALETTE = {
  perceptual: "#D55E00",
  other: "#0072B2",
  neutral: "#767676",
  trueBox: "#56B4E9",
  foundBox: "#F0E442",
};

/** Two curves that are compared, ours first: their colours on light and on dark pages, and dashes as a second sign. */
export const COMPARED = [
  { colour: `var(--book-perceptual, ${PALETTE.perceptual})` },
  { colour: `var(--book-no-perceptual, ${PALETTE.other})`, dashes: "6 3" },
];

/** A map (H, W) in colours, from its least value to its largest or the one given. */
export function drawMap(canvas, values, largest = null) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const scale = 255 / ((largest ?? high) - low || 1);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const { data } = image;
  for (let index = 0; index < values.length; index++) {
    const colour = 3 * Math.min(255, Math.round((values[index] - low) * scale));
    data[4 * index] = COLOURS[colour];
    data[4 * index + 1] = COLOURS[colour + 1];
    data[4 * index + 2] = COLOURS[colour + 2];
    data[4 * index + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/**
 * The pixels of one of the pictures (height, width) that lie row by row in a larger one, `columns` to a row.
 * @returns {Uint8ClampedArray} red, green, blue and 255 of each pixel.
 */
export function pixelsOf(picture, height, width, index = 0, columns = 1) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, -width * (index % columns), -height * Math.floor(index / columns));
  return context.getImageData(0, 0, width, height).data;
}

/** A picture, as large as the canvas. */
export function drawPicture(canvas, picture) {
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
}

/** Boxes [left, top, right, bottom] in inclusive pixels; dashed, so that two kinds are told apart without colours. */
export function drawBoxes(canvas, boxes, colour, dashes = []) {
  const context = canvas.getContext("2d");
  for (const [width, style] of [[3.5, "#000000a0"], [2, colour]]) {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.setLineDash(dashes);
    for (const [left, top, right, bottom] of boxes) {
      context.strokeRect(left + 0.5, top + 0.5, right - left, bottom - top);
    }
  }
  context.setLineDash([]);
}

/**
 * Curves over steps, with a mark at the step that is shown.
 * @param curves [{name, values, colour, dashes, band}]: values of equal length, null where there is none; band
 *   {low, high}, where there is one, the values around them.
 * @param options {title, x, y: labels of the axes, low, high: range of y, level: {value, text} of a line across,
 *   steps: x values}.
 * @returns {{root: SVGElement, mark: (index: number) => void}}
 */
export function chart(curves, { title, x, y, low, high, level, steps }) {
  const [width, height, left, bottom, top, right] = [460, 220, 46, 40, 12, 12];
  const count = curves[0].values.length;
  const values = curves.flatMap((curve) => curve.values.filter((value) => value !== null));
  low ??= Math.min(...values);
  high ??= Math.max(...values);
  const at = (index) => left + ((width - left - right) * index) / Math.max(1, count - 1);
  const of = (value) => height - bottom - ((height - bottom - top) * (value - low)) / (high - low || 1);
  const label = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2))));
  const root = element("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const value of [low, (low + high) / 2, high]) {
    root.append(
      element("line", { class: "grid", x1: left, x2: width - right, y1: of(value), y2: of(value) }),
      element("text", { x: left - 6, y: of(value) + 4, "text-anchor": "end" }, label(value)),
    );
  }
  if (level) {
    const y = of(level.value);
    root.append(
      element("line", { x1: left, x2: width - right, y1: y, y2: y, stroke: "currentColor" }),
      element("text", { x: width - right, y: y - 5, "text-anchor": "end" }, level.text),
    );
  }
  for (const { band, colour } of curves.filter((curve) => curve.band)) {
    const there = band.high.map((value, index) => `${at(index)},${of(value)}`);
    const back = band.low.map((value, index) => `${at(index)},${of(value)}`).reverse();
    root.append(element("polyline", { points: [...there, ...back].join(" "), fill: colour, opacity: 0.15 }));
  }
  for (const [index, anchor] of [[0, "start"], [count - 1, "end"]]) {
    const text = String(steps?.[index] ?? index);
    root.append(element("text", { x: at(index), y: height - bottom + 16, "text-anchor": anchor }, text));
  }
  root.append(
    element("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, x),
    element("text", { x: 12, y: height / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${height / 2})` }, y),
  );
  const dots = curves.map((curve) => {
    const points = curve.values.map((value, index) => (value === null ? "" : `${at(index)},${of(value)}`)).join(" ");
    const style = { fill: "none", stroke: curve.colour, "stroke-width": 2, "stroke-dasharray": curve.dashes ?? "" };
    const grown = element("polyline", { points: "", ...style });
    const dot = element("circle", { r: 4, fill: curve.colour });
    root.append(element("polyline", { points, ...style, opacity: 0.4 }, element("title", {}, curve.name)), grown, dot);
    return { ...curve, grown, dot, points: points.split(" ") };
  });
  const mark = (index) => {
    for (const { values: own, grown, dot, points } of dots) {
      grown.setAttribute("points", points.slice(0, index + 1).join(" "));
      dot.setAttribute("cx", at(index));
      dot.setAttribute("cy", own[index] === null ? -10 : of(own[index]));
    }
  };
  mark(0);
  return { root, mark };
}

/** The sign of a curve, beside its name. */
export function swatch({ colour, dashes = "" }) {
  const line = { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dashes };
  return element("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true" }, element("line", line));
}

// State

/**
 * Traits that the address keeps, so that what is seen can be sent as a link: `#NAME.trait=value&...`.
 * Only in a static page: a live notebook's address is not ours. What does not fit the trait's type is ignored.
 */
export function keepInAddress(model, name, traits) {
  if (!model.isStatic) return;
  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const trait of traits) {
      const text = given.get(`${name}.${trait}`);
      if (text === null) continue;
      const value = typeof model.get(trait) === "number" ? Number(text) : text;
      if (typeof value === "string" || Number.isFinite(value)) model.set(trait, value);
    }
  };
  read();
  addEventListener("hashchange", read);
  const write = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const trait of traits) given.set(`${name}.${trait}`, model.get(trait));
    history.replaceState(null, "", `#${given}`);
  };
  let timer = 0;
  for (const trait of traits) {
    model.on(`change:${trait}`, () => {
      clearTimeout(timer); // browsers allow so many changes of the address in a while
      timer = setTimeout(write, 250);
    });
  }
}

/** Set a trait, for Python and for the other parts of the page. */
export function put(model, trait, value) {
  model.set(trait, value);
  model.save_changes();
}

/** A line that tells what is going on, read out politely; `say("")` empties it. */
export function statusLine() {
  const root = element("p", { class: "status", role: "status" });
  return { root, say: (words) => (root.textContent = words) };
}

/** Only the newest of several calls, at most one for each frame. */
export function eachFrame(draw) {
  let waiting = 0;
  return () => {
    waiting ||= requestAnimationFrame(() => {
      waiting = 0;
      draw();
    });
  };
}

/** A value where it is one of those that there are, else the first of these: an address may say anything. */
export const oneOf = (options, value) => (options.includes(value) ? value : options[0]);

/**
 * A function that loads and then shows what is asked for last; what was asked for before is not shown any more.
 * Until it is shown, the explorer that the status line is in counts as busy.
 */
export function newestOnly(status, load, show) {
  let asked = 0;
  const busy = (now) => status.root.closest(".explorer").setAttribute("aria-busy", now);
  const draw = eachFrame(async () => {
    const mine = asked;
    const slow = setTimeout(() => mine === asked && status.say("Loading …"), 300);
    try {
      const loaded = await load();
      if (mine !== asked) return;
      show(loaded);
      status.say("");
    } catch (error) {
      if (mine === asked) status.say(error.message);
    } finally {
      clearTimeout(slow);
      if (mine === asked) busy(false);
    }
  });
  return () => {
    asked++;
    busy(true);
    draw();
  };
}
