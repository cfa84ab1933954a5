// Maps that are asked for: only the newest counts; how far it is, how to stop it, and pictures of the reader's own.

import { load } from "./data.js";
import { element, statusLine } from "./elements.js";

const PATIENCE = 250; // ms: nothing is computed for what the reader only passes by

/**
 * Asks for photographs and maps, of which only the newest is handed on.
 * @param {(key: string | null) => void} wait for the map of a key, or no longer.
 * @returns {(state: State, current: string | undefined) => void} current is the key of the map that is shown.
 */
export function requests(model, wait, receive, fail) {
  let wanted = null;
  let timer = 0;
  const end = (state, then) => {
    if (wanted !== state.map) return;
    wanted = null;
    wait(null);
    then();
  };
  const begin = async (state) => {
    try {
      const [picture, map] = await Promise.all([load(model, state.picture), load(model, state.map)]);
      end(state, () => receive(state, picture, map));
    } catch (error) {
      end(state, () => fail(error));
    }
  };
  return (state, current) => {
    if (state.map === (wanted ?? current)) return;
    clearTimeout(timer);
    wanted = state.map === current ? null : state.map;
    wait(wanted);
    if (wanted) timer = setTimeout(begin, model.get("live") && current ? PATIENCE : 0, state);
  };
}

/** What is being computed and how far, a way to stop it, and what went wrong. */
export function workLine(model, el) {
  const status = statusLine();
  const bar = element("progress", { max: 1, "aria-label": "How much of the map is computed" });
  const stop = element("button", { type: "button", onclick: () => model.send({ cancel: key }) }, "Cancel");
  let key = null;
  let timer = 0;
  const tell = () => {
    status.say(model.get("live") ? "Computing the map …" : "Loading the map …");
    bar.hidden = stop.hidden = !model.get("live");
  };
  const wait = (wanted) => {
    key = wanted;
    clearTimeout(timer);
    status.say("");
    bar.hidden = stop.hidden = true;
    bar.removeAttribute("value");
    el.toggleAttribute("data-waiting", key !== null);
    if (key !== null) timer = setTimeout(tell, 300);
  };
  const hear = (message) => {
    if ("progress" in message && message.key === key) bar.value = message.progress;
    if ("error" in message && !("key" in message)) status.say(message.error);
  };
  return { root: element("div", { class: "work" }, status.root, bar, stop), say: status.say, wait, hear };
}

/** The reader's own pictures, chosen or dropped. */
export function takePictures(model, el, say) {
  const send = async ([file]) => {
    if (!file) return;
    say(`Reading ${file.name} …`);
    model.send({ upload: file.name }, undefined, [await file.arrayBuffer()]);
  };
  const input = element("input", { type: "file", accept: "image/*", hidden: true, onchange: () => send(input.files) });
  const button = element("button", { type: "button", onclick: () => input.click() }, "Open a picture …");
  const over = (event) => {
    event.preventDefault();
    el.style.outline = event.type === "dragover" ? "2px dashed" : "";
  };
  for (const event of ["dragover", "dragleave", "drop"]) el.addEventListener(event, over);
  el.addEventListener("drop", (event) => send(event.dataTransfer.files));
  return element("div", {}, button, input);
}
