// Requests for maps, of which only the newest counts, with their progress and a way to stop; and the reader's pictures.

import { load } from "./data.js";
import { element, statusLine } from "./elements.js";

const PATIENCE = 250; // ms: no map is computed for choices that the reader only passes by

/**
 * Make a function that requests the photograph and the map of a state. Only the newest ones are passed to `receive`.
 * @param work see `workLine`.
 * @returns {(state: object, settled: string | undefined) => void} settled is the key of the map that is shown.
 */
export function requests(model, work, receive, fail) {
  let wanted = null; // the state that is waited for
  let begun = null; // the key that was requested last, until its map arrives
  let timer = 0;
  const end = (state, then) => {
    if (wanted !== state) return;
    wanted = begun = null;
    work.wait(null);
    then();
  };
  const begin = async (state) => {
    begun = state.map;
    const joined = model.loaded?.has(state.map); // there is an earlier request, which one in between may have cancelled
    try {
      const [picture, map] = await Promise.all([load(model, state.picture), load(model, state.map)]);
      end(state, () => receive(state, picture, map));
    } catch (error) {
      if (joined && wanted === state && error.message === "cancelled" && !work.dropped()) return begin(state);
      end(state, () => fail(error));
    }
  };
  return (state, settled) => {
    if (state.map === (wanted?.map ?? settled)) return;
    clearTimeout(timer);
    const patience = state.live && (settled || begun) ? PATIENCE : 0;
    wanted = state.map === settled ? null : state;
    work.wait(wanted?.map ?? null, state.live);
    if (wanted) timer = setTimeout(begin, patience, state);
    else if (begun && state.live) model.send({ cancel: begun });
  };
}

const inMegabytes = (bytes) => (bytes / 1e6).toFixed(0);

/**
 * A line with what is being computed, its progress, a button that cancels or stops it, and errors. A search that shows
 * maps while it runs can be stopped and go on later; other requests can only be cancelled.
 */
export function workLine(model, el) {
  const status = statusLine();
  const bar = element("progress", { max: 1, "aria-label": "How much of the map is computed" });
  const presses = {
    Cancel: () => {
      dropped = true;
      model.send({ cancel: key });
    },
    Stop: () => {
      model.send({ stop: key });
      clearTimeout(timer);
      bar.hidden = stop.hidden = false;
      status.say("Stopped.");
      stop.textContent = "Go on";
    },
    "Go on": () => {
      model.send({ need: key });
      tell(true);
      stop.textContent = "Stop";
    },
  };
  const stop = element("button", { type: "button", onclick: () => presses[stop.textContent]() });
  let key = null;
  let dropped = false; // by the reader
  let timer = 0;
  const tell = (live) => {
    status.say(live ? "Computing the map …" : "Loading the map …");
    bar.hidden = stop.hidden = !live;
  };
  const wait = (wanted, live) => {
    if (key && stop.textContent === "Go on") model.send({ cancel: key }); // the stopped search will not go on
    key = wanted;
    dropped = false;
    clearTimeout(timer);
    status.say("");
    stop.textContent = "Cancel";
    bar.hidden = stop.hidden = true;
    bar.removeAttribute("value");
    el.toggleAttribute("data-waiting", key !== null); // until the map, or a first one on the way, is shown
    el.setAttribute("aria-busy", key !== null);
    if (key !== null) timer = setTimeout(tell, 300, live);
  };
  const load = ({ loading, bytes }) => {
    bar.hidden = loading === 1;
    bar.value = loading;
    const share = `${inMegabytes(loading * bytes)} of ${inMegabytes(bytes)} MB`;
    status.say(loading === 1 ? "Starting the network …" : `Loading the network and what runs it: ${share} …`);
  };
  const hear = (message) => {
    if ("loading" in message) load(message);
    if ("progress" in message && message.key === key) {
      bar.value = message.progress;
      if ("margin" in message && stop.textContent === "Cancel") stop.textContent = "Stop";
      if (stop.textContent === "Stop" && el.ownerDocument.hidden) status.say("Computing in the background, which may be slower …");
    }
    if ("error" in message && !("key" in message)) {
      status.say(message.error);
      bar.hidden ||= key === null; // the bar of a loading network
    }
  };
  const root = element("div", { class: "work" }, status.root, bar, stop);
  return { root, say: status.say, wait, hear, awaited: () => key, dropped: () => dropped };
}

/** Buttons and listeners for the reader's own pictures: from files, dropped, pasted, or taken with a camera. */
export function takePictures(model, el, say, signal) {
  const send = async ([file]) => {
    if (!file) return;
    say(`Reading ${file.name} …`);
    const bytes = await file.arrayBuffer().catch(() => null); // null for a folder, for example
    if (bytes) model.send({ upload: file.name }, undefined, [bytes]);
    else say(`${file.name} cannot be read; give a JPEG or PNG file.`);
  };
  const { kernel } = model.get("about");
  const isStatic = !model.get("live");
  if (isStatic && kernel.missing) {
    return element("p", { class: "facts" }, `No picture of yours here: ${kernel.missing}`);
  }
  const opener = (words, more) => {
    const input = element("input", { type: "file", accept: "image/*", hidden: true, ...more });
    input.addEventListener("change", () => {
      send([...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
    return [element("button", { type: "button", onclick: () => input.click() }, words), input];
  };
  const over = (event) => {
    event.preventDefault();
    el.style.outline = event.type === "dragover" ? "2px dashed" : "";
  };
  for (const event of ["dragover", "dragleave", "drop"]) el.addEventListener(event, over);
  el.addEventListener("drop", (event) => send(event.dataTransfer.files));
  const paste = (event) => {
    const taken = event.defaultPrevented || event.target.closest?.("input, textarea, [contenteditable]");
    if (el.isConnected && !taken) send(event.clipboardData.files);
  };
  el.ownerDocument.addEventListener("paste", paste, { signal });
  const camera = matchMedia("(pointer: coarse)").matches ? opener("Camera …", { capture: "environment" }) : [];
  const cost = isStatic ? `Loads ${inMegabytes(kernel.bytes)} MB, once. Your photograph never leaves this page.` : "";
  const about = isStatic ? element("p", { class: "facts" }, cost) : null;
  return element("div", {}, ...opener(isStatic ? "Your photograph …" : "Open a picture …"), ...camera, about);
}
