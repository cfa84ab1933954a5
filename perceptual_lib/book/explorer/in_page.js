// Does in the page what Python does for an explorer in Jupyter, for the reader's own photographs.

import { load } from "./data.js";

const SEARCHES = ["no_perceptual", "perceptual"]; // the other methods that a page computes are single passes
export const COMPUTED = [...SEARCHES, "gradient", "grad_cam"];
const LARGEST = 100_000_000; // pixels of a picture

/**
 * Let a static page's model answer requests about the reader's own photographs, too: to add one, for maps, and to stop.
 * Network and runtime are loaded with the first picture. The pictures never leave the page.
 */
export function explainInPage(model) {
  const send = model.send;
  const photographs = new Map(); // by name: what the worker's task "look" gets
  let opening = null;
  let turn = Promise.resolve(); // the end of the queue of the worker's tasks, which run one after the other
  let looked = null; // the photograph that the worker has
  let asked = null; // the key of the map that is being computed
  let begun = null; // the key of a search, which may be stopped, and its map so far

  const emit = (message, buffers = []) => model.emit("msg:custom", message, buffers.map(({ buffer }) => new DataView(buffer)));
  const queue = (task, failed) => (turn = turn.then(task).catch((error) => emit({ ...failed, error: error.message })));
  const leave = () => {
    if (begun) emit({ key: begun.key, error: "cancelled" });
    begun = null;
  };
  const look = async (name, photograph) => {
    if (looked === name) return;
    leave();
    looked = null; // if this fails, the worker has no photograph
    const call = await opening;
    const seen = await call("look", photograph);
    looked = name;
    return seen;
  };

  const add = async (picture) => {
    opening ??= openWorker(model, emit);
    opening.catch(() => (opening = null)); // the next picture tries again
    await opening;
    const { kernel, size, classes } = model.get("about");
    const name = photographs.size ? `yours ${photographs.size + 1}` : "yours"; // not the file's, which is private
    const photograph = { ...picture, size, mean: kernel.mean, std: kernel.std };
    const { shown, probabilities } = await look(name, photograph);
    // Kept as the network sees it, because the original may have a hundred times as many pixels.
    photographs.set(name, { ...photograph, pixels: shown, from: size });
    const canvas = new OffscreenCanvas(size[1], size[0]);
    canvas.getContext("2d").putImageData(new ImageData(shown, size[1]), 0, 0);
    model.loaded.set(`picture/${name}`, canvas); // so that nothing requests it from the static page
    const ranked = [...probabilities.keys()].sort((one, other) => probabilities[other] - probabilities[one]);
    const likely = ranked.slice(0, 5).map((index) => [index, probabilities[index]]);
    const told = { name, title: classes[ranked[0]], boxes: [], classes: likely, target: ranked[0], own: true };
    const about = model.get("about"); // read again: boxes may have been drawn meanwhile
    model.set("about", { ...about, photographs: [...about.photographs, told] });
    model.set("target", "");
    model.set("aim", "away");
    model.set("photograph", name);
  };

  const compute = async (key, [, name, method, layers, target, aim]) => {
    if (asked !== key) throw new Error("cancelled");
    const call = await opening;
    await look(name, photographs.get(name));
    if (begun?.key !== key) leave();
    const { kernel, photographs: told } = model.get("about");
    const about = { ...kernel.settings, target: Number(target || told.find((each) => each.name === name).target) };
    if (!SEARCHES.includes(method)) {
      const map = await call(method, about);
      return emit({ key, format: "uint16", raw: true }, [map]);
    }
    const held = method === "perceptual" ? layers.split("-").map(Number) : null;
    if (!begun) await call("begin", { ...about, held, towards: aim === "towards" });
    begun ??= { key };
    const ended = (error) => {
      begun = null; // the next request starts the search anew
      throw error;
    };
    for (let found; asked === key && (found = await call("step").catch(ended)); ) {
      const { map, seen, ...step } = found;
      begun.map = map;
      emit({ key, progress: step.step / step.steps, ...step }, [map, seen]);
    }
    if (asked !== key) return; // stopped; the search may go on later
    emit({ key, format: "uint16", raw: true }, [begun.map]);
    begun = null;
  };

  model.send = (message, callbacks, buffers) => {
    const parts = message.need?.split("/") ?? [];
    if (message.upload) {
      const picture = opened(message.upload, buffers[0]);
      picture.then(() => (asked = null), () => {}); // if it is not a picture, a running search goes on
      return queue(async () => add(await picture));
    }
    if (asked && asked === (message.stop ?? message.cancel)) asked = null;
    if (message.cancel) queue(() => begun?.key === message.cancel && leave());
    if (!photographs.has(parts[1])) return send(message);
    const key = message.need;
    asked = key;
    queue(() => compute(key, parts), { key });
  };
}

/** The methods to choose from for a photograph: for the reader's own in a static page, those that a page computes. */
export function methodsFor(model, { own }) {
  const { methods } = model.get("about");
  return own && !model.get("live") ? methods.filter(({ name }) => COMPUTED.includes(name)) : methods;
}

/** The pixels of an image file, upright, with transparent parts on white. */
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
  bitmap.close();
  return { pixels: context.getImageData(0, 0, width, height).data, from: [height, width] };
}

/** Load the network and its runtime, and start the worker. */
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
  // A classic worker, because file:// allows no module worker.
  const worker = new Worker(URL.createObjectURL(new Blob([files.search], { type: "text/javascript" })));
  const call = (task, given, moved = []) =>
    new Promise((resolve, reject) => {
      worker.onmessage = ({ data: { found, error } }) => (error ? reject(new Error(error)) : resolve(found));
      worker.onerror = ({ message }) => reject(new Error(message));
      worker.postMessage({ task, given }, moved);
    });
  await call("open", files, [all]).catch(({ message }) => {
    worker.terminate();
    throw new Error(`The network cannot be started in this browser (${message}); all else on the page goes on.`);
  });
  return call;
}
