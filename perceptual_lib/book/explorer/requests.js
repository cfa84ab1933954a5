// Maps that are asked for: only the newest counts; how far it is, how to stop it, and pictures of the reader's own.

import { load } from "./data.js";
import { element, statusLine } from "./elements.js";

const PATIENCE = 250; // ms: nothing is computed for what the reader only passes by

/**
 * Asks for photographs and maps, of which only the newest is handed on.
 * @param work see `workLine`.
 * @returns {(state: object, settled: string | undefined) => void} settled is the key of the map that is shown.
 */
export function requests(model, work, receive, fail) {
  let wanted = null; // the state that is waited for
  let begun = null; // the key that was last asked for, while it is not here
  let timer = 0;
  const end = (state, then) => {
    if (wanted !== state) return;
    wanted = begun = null;
    work.wait(null);
    then();
  };
  const begin = async (state) => {
    begun = state.map;
    const joined = model.loaded?.has(state.map); // an earlier request, which may have been cancelled by one in between
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
 * What is being computed and how far, a way to stop it, and what went wrong. A search that shows its maps on the way is
 * stopped where it is, and goes on from there.
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
    if (key && stop.textContent === "Go on") model.send({ cancel: key }); // nobody will say so
    key = wanted;
    dropped = false;
    clearTimeout(timer);
    status.say("");
    stop.textContent = "Cancel";
    bar.hidden = stop.hidden = true;
    bar.removeAttribute("value");
    el.toggleAttribute("data-waiting", key !== null); // until there is something to see of it
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
      bar.hidden ||= key === null; // of what was loaded
    }
  };
  const root = element("div", { class: "work" }, status.root, bar, stop);
  return { root, say: status.say, wait, hear, awaited: () => key, dropped: () => dropped };
}

/** The reader's own pictures: chosen, dropped, pasted or taken. */
export function takePictures(model, el, say, signal) {
  const send = async ([file]) => {
    if (!file) return;
    say(`Reading ${file.name} …`);
    const bytes = await file.arrayBuffer().catch(() => null); // as of a folder
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
      input.value = ""; // the same one may be given again
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
