// What Python does for an explorer in Jupyter, done in the page, for photographs of the reader's own.

import { load } from "./data.js";

const SEARCHES = ["perceptual", "no_perceptual"]; // the other method a page can compute are single passes
const COMPUTED = [...SEARCHES, "gradient", "grad_cam"];
const LARGEST = 100_000_000; // pixels of a picture

/**
 * Let a static page's model answer for the reader's own photographs, too: pictures that are sent, maps, and to stop.
 * Network and runtime are loaded with the first picture, and the pictures stay in the page.
 */
export function explainInPage(model) {
  const send = model.send;
  const photographs = new Map(); // by name: what the worker is told of them
  let opening = null;
  let looked = null; // the photograph that the worker knows
  let begun = null; // the key of the map that it searches for
  let asked = null; // the key that is being computed

  const emit = (message, buffers = []) => model.emit("msg:custom", message, buffers);
  const answer = async (key, compute) => {
    try {
      await compute(key.split("/"));
    } catch (error) {
      emit({ key, error: error.message });
    }
  };

  const add = async (file, bytes) => {
    try {
      const picture = await opened(file, bytes);
      opening ??= openWorker(model, emit);
      opening.catch(() => (opening = null)); // with the next picture it is tried again
      const call = await opening;
      const { kernel, size, classes } = model.get("about");
      const name = photographs.size ? `yours ${photographs.size + 1}` : "yours"; // not the file's, which is private
      photographs.set(name, { ...picture, size, mean: kernel.mean, std: kernel.std });
      const { shown, probabilities } = await call("look", photographs.get(name));
      looked = name;
      photographs.get(name).shown = shown;
      const ranked = [...probabilities.keys()].sort((one, other) => probabilities[other] - probabilities[one]);
      const five = ranked.slice(0, 5).map((index) => [index, probabilities[index]]);
      const told = { name, title: classes[ranked[0]], boxes: [], classes: five, target: ranked[0], own: true };
      model.set("about", { ...model.get("about"), photographs: [...model.get("about").photographs, told] });
      model.set("target", "");
      model.set("photograph", name);
    } catch (error) {
      emit({ error: error.message });
    }
  };

  const send_picture = async ([, name]) => {
    const { shown, size } = photographs.get(name);
    const canvas = new OffscreenCanvas(size[1], size[0]);
    canvas.getContext("2d").putImageData(new ImageData(shown, size[1]), 0, 0);
    const bytes = await (await canvas.convertToBlob()).arrayBuffer();
    emit({ key: `picture/${name}`, format: "image/png" }, [new DataView(bytes)]);
  };

  const compute = async (key, [, name, method, layers, target]) => {
    asked = key;
    if (begun && begun !== key) emit({ key: begun, error: "cancelled" });
    if (begun !== key) begun = null;
    const call = await opening;
    if (looked !== name) await call("look", photographs.get(name));
    looked = name;
    const about = model.get("about");
    const chosen = Number(target || about.photographs.find((each) => each.name === name).target);
    let map = null;
    if (SEARCHES.includes(method)) {
      const held = method === "perceptual" ? layers.split("-").map(Number) : null;
      if (begun !== key) await call("begin", { ...about.kernel.settings, target: chosen, held });
      begun = key;
      for (let found; asked === key && (found = await call("step")); map = found.map) {
        const { map, seen, ...told } = found;
        emit({ key, progress: found.step / found.steps, ...told }, [new DataView(map.buffer), new DataView(seen.buffer)]);
      }
      if (asked !== key) return; // stopped, or another one is asked for
      begun = null;
    } else {
      map = await call(method, { target: chosen });
    }
    if (map) emit({ key, format: "uint16", raw: true, shape: about.size }, [new DataView(map.buffer)]);
  };

  model.send = (message, callbacks, buffers) => {
    const key = message.need;
    const own = key && photographs.has(key.split("/")[1]);
    if (message.upload) add(message.upload, buffers[0]);
    else if (message.stop) asked = null;
    else if (own && key.startsWith("picture/")) answer(key, send_picture);
    else if (own) answer(key, (parts) => compute(key, parts));
    else send(message);
  };
}

/** The methods that there can be maps by. */
export function methodsFor(model, { own }) {
  const { methods } = model.get("about");
  return own && !model.get("live") ? methods.filter(({ name }) => COMPUTED.includes(name)) : methods;
}

/** Pixels of a picture's file, upright, on white where it is transparent. */
async function opened(name, bytes) {
  const failure = `${name} is not a picture that can be read here; give a JPEG or PNG file.`;
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(new Blob([bytes]), options).catch(() => {
    throw new Error(failure);
  });
  const { width, height } = bitmap;
  if (width * height > LARGEST) throw new Error(`${name} has more than ${LARGEST / 1e6} million pixels; give a smaller one.`);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  return { pixels: context.getImageData(0, 0, width, height).data, from: [height, width] };
}

/** Load the network and what runs it, and start the worker. */
async function openWorker(model, emit) {
  if (typeof WebAssembly === "undefined") throw new Error("This browser has no WebAssembly, which runs the network.");
  const { pieces, bytes, sizes } = model.get("about").kernel;
  const loaded = [];
  for (let index = 0; index < pieces; index++) {
    emit({ loading: index / pieces, bytes });
    loaded.push(await load(model, `kernel/${index}`));
    model.loaded.delete(`kernel/${index}`);
  }
  emit({ loading: 1, bytes });
  const stream = new Blob(loaded).stream().pipeThrough(new DecompressionStream("deflate"));
  const all = await new Response(stream).arrayBuffer();
  let start = 0;
  const files = Object.fromEntries(
    Object.entries(sizes).map(([name, size]) => [name, new Uint8Array(all, (start += size) - size, size)]),
  );
  // A classic one: file:// allows no worker that is a module.
  const worker = new Worker(URL.createObjectURL(new Blob([files.search], { type: "text/javascript" })));
  const waiting = new Map();
  worker.onmessage = ({ data: { id, found, error } }) => {
    const [resolve, reject] = waiting.get(id);
    waiting.delete(id);
    error ? reject(new Error(error)) : resolve(found);
  };
  worker.onerror = ({ message }) => waiting.forEach(([, reject]) => reject(new Error(message)));
  let count = 0;
  const call = (task, given, moved = []) =>
    new Promise((resolve, reject) => {
      waiting.set(++count, [resolve, reject]);
      worker.postMessage({ id: count, task, given }, moved);
    });
  await call("open", files, [all]).catch(({ message }) => {
    worker.terminate();
    throw new Error(`The network cannot be started in this browser (${message}); all else on the page goes on.`);
  });
  return call;
}
