// A worker that computes maps: it runs the network, as the graph that graph.py writes, and the search of Eq. 5.

import { dot, minimize, sum } from "./lbfgs.js";
import { resized } from "./pictures.js";

let ort = null;
let session = null;
let subject = null; // the photograph: its image, normalized, and all outputs of the graph for it
let search = null; // the generator of its points, the outputs of the last pass, class and steps

/** The tasks that the page may ask for, by name. Their answers are copied into the page. */
const tasks = {
  /** Start the runtime, from its module's text and its WebAssembly, with the graph of the network. */
  async open({ runtime, wasm, network }) {
    ort = await import(URL.createObjectURL(new Blob([runtime], { type: "text/javascript" })));
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: wasm });
    session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  },

  /** Read a picture for the next tasks. Answers with the picture as the network sees it, and the probabilities. */
  async look({ pixels, from, size, mean, std }) {
    const shown = resized(pixels, from, size);
    const count = size[0] * size[1];
    const image = new Float32Array(3 * count);
    for (let index = 0; index < image.length; index++) {
      const channel = Math.floor(index / count);
      image[index] = (shown[4 * (index % count) + channel] / 255 - mean[channel]) / std[channel];
    }
    subject = { image, size, mean, std };
    search = null;
    subject.at = await pass(image, { outputs: session.outputNames });
    return { shown, probabilities: softmax(subject.at.logits) };
  },

  /**
   * Begin to minimize Eq. 5 for a class, with the activations from `held[0]` to `held[1]` held. Towards the class, the
   * margin is the lead of the best other class: it is the same number with the other sign, and so is its target.
   */
  async begin({ target, held, towards, layer_weight, margin_target: aimed, pixel_weight, max_iter }) {
    const margin_target = towards ? -aimed : aimed;
    const { image, at } = subject;
    const layers = activations().map((_, layer) => (held && held[0] <= layer && layer <= held[1] ? 1 : 0));
    const scale = layers.map((share, layer) => {
      const values = at[`activation_${layer}`];
      const size = values.reduce((sum, value) => sum + value * value, 0) / values.length;
      return (share * layer_weight) / values.length / (size || 1);
    });
    const about = { target, rival: 1, margin_target, scale, outputs: ["logits", "margin", "perceptual", "gradient"] };
    const own = { target, steps: max_iter, step: -1, last: null };
    const evaluate = async (change) => {
      const said = await pass(sum(image, 1, change), about);
      const square = dot(change, change) / change.length;
      own.last = said;
      return {
        loss: (said.margin[0] - margin_target) ** 2 + said.perceptual[0] + pixel_weight * square,
        gradient: sum(said.gradient, (2 * pixel_weight) / change.length, change),
      };
    };
    own.points = minimize(evaluate, new Float32Array(image.length), max_iter);
    search = own;
  },

  /** The next step: its map, the picture that the network sees, margin and probabilities; null after the last one. */
  async step() {
    const { value: change, done } = await search.points.next();
    if (done) return null;
    search.step++;
    const { image } = subject;
    const [count, { mean, std }] = [image.length / 3, subject];
    const seen = new Uint8ClampedArray(4 * count).fill(255);
    const size = new Float32Array(count).map((_, place) => {
      let sum = 0;
      for (let channel = 0; channel < 3; channel++) {
        const moved = change[channel * count + place];
        seen[4 * place + channel] = ((image[channel * count + place] + moved) * std[channel] + mean[channel]) * 255;
        sum += moved * moved;
      }
      return Math.sqrt(sum / 3);
    });
    const { margin, logits } = search.last;
    const told = { step: search.step, steps: search.steps, margin: margin[0], ...whatInstead(logits, search.target) };
    return { ...told, seen, map: whole(size) };
  },

  /** The gradient of the class's logit: at each pixel the largest magnitude over the channels. */
  async gradient({ target }) {
    const { gradient } = await pass(subject.image, { target, outputs: ["gradient"] });
    const count = gradient.length / 3;
    const largest = (place) => Math.max(...[0, 1, 2].map((channel) => Math.abs(gradient[channel * count + place])));
    return whole(Float32Array.from({ length: count }, (_, place) => largest(place)));
  },

  async grad_cam({ target }) {
    return whole((await pass(subject.image, { target, outputs: ["cam"] })).cam);
  },
};

const activations = () => session.outputNames.filter((name) => name.startsWith("activation_"));

/** One pass of the graph. By default its margin is the logit alone, far above its target: gradients keep their sign. */
async function pass(image, { target = 0, rival = 0, margin_target = -1e3, scale = null, outputs }) {
  const tensor = (values, ...dims) => new ort.Tensor("float32", values, dims);
  const held = scale ?? activations().map(() => 0);
  const feeds = {
    image: tensor(image, 1, 3, ...subject.size),
    rival: tensor(Float32Array.of(rival), 1),
    margin_target: tensor(Float32Array.of(margin_target), 1),
    scale: tensor(Float32Array.from(held), held.length),
  };
  const classes = session.outputMetadata.find(({ name }) => name === "logits").shape[1];
  feeds.target = tensor(new Float32Array(classes), 1, classes);
  feeds.target.data[target] = 1;
  held.forEach((share, layer) => {
    const kept = subject.at?.tensors[`activation_${layer}`];
    feeds[`reference_${layer}`] = share ? kept : tensor(new Float32Array(1), 1, 1, 1, 1);
  });
  const tensors = await session.run(feeds, outputs);
  return { ...Object.fromEntries(outputs.map((name) => [name, tensors[name].data])), tensors };
}

function softmax(logits) {
  const most = logits.reduce((one, other) => Math.max(one, other));
  const powers = logits.map((value) => Math.exp(value - most));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}

/** The probability of a class, and the most probable other one. */
function whatInstead(logits, target) {
  const probabilities = softmax(logits);
  const others = probabilities.map((value, index) => (index === target ? -1 : value));
  const rival = others.indexOf(others.reduce((one, other) => Math.max(one, other)));
  return { probability: probabilities[target], rival, rivals: probabilities[rival] };
}

/** A map as whole numbers from 0 to 65535, as Python sends it. */
function whole(values) {
  const low = values.reduce((one, other) => Math.min(one, other));
  const range = values.reduce((one, other) => Math.max(one, other)) - low || 1;
  return new Uint16Array(values.map((value) => Math.round(((value - low) / range) * 65535)));
}

onmessage = async ({ data: { task, given } }) => {
  try {
    postMessage({ found: await tasks[task](given) });
  } catch (error) {
    postMessage({ error: error.message ?? String(error) });
  }
};
