// Load arrays and pictures of the model, and read pixels.

const TIMEOUT = 600_000; // a live kernel may compute for minutes

/**
 * An array or a picture of the model, by its key: computed and sent by Python, or read from the static page.
 * @returns {Promise<{shape: number[], low: number, high: number, values: Uint16Array} | HTMLImageElement>}
 *   a picture; or of a map (H, W) its values from 0 to 65535, and `low` and `high`, for which these two stand.
 */
export function load(model, key) {
  const kept = (model.loaded ??= new Map());
  if (!kept.has(key)) {
    const waiting = new Promise((resolve, reject) => {
      let timer = 0;
      const wait = () => {
        clearTimeout(timer);
        timer = setTimeout(() => listen({ key, error: "no answer for ten minutes" }), TIMEOUT);
      };
      const listen = (message, buffers) => {
        if (message.key !== key) return;
        if (!("format" in message || "error" in message)) return wait(); // a report of progress
        clearTimeout(timer);
        model.off("msg:custom", listen);
        message.error ? reject(new Error(message.error)) : resolve(decoded(message, buffers[0]));
      };
      wait();
      model.on("msg:custom", listen);
      model.send({ need: key });
    });
    kept.set(key, waiting);
    waiting.catch(() => kept.delete(key)); // so that the next request tries again
  }
  return kept.get(key);
}

async function decoded(head, buffer) {
  const bytes = new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  if (head.format === "bytes") return bytes;
  if (head.raw) return { ...head, values: new Uint16Array(bytes.buffer) };
  if (head.format !== "uint16") {
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([bytes], { type: head.format }));
    await image.decode();
    URL.revokeObjectURL(image.src);
    return image;
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return { ...head, values: new Uint16Array(await new Response(stream).arrayBuffer()) };
}

/**
 * The pixels of the picture `index` in a sheet of pictures (height, width), which lie row by row, `columns` to a row.
 * @returns {Uint8ClampedArray} red, green, blue and 255 of each pixel.
 */
export function pixelsOf(picture, height, width, index = 0, columns = 1) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, -width * (index % columns), -height * Math.floor(index / columns));
  return context.getImageData(0, 0, width, height).data;
}
