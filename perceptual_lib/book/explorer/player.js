// The base of the players: controls for the photograph and further traits, panels, and drawing when traits change.

import { load } from "./data.js";
import { choice, element, statusLine } from "./elements.js";
import { eachFrame, keepInAddress, put } from "./state.js";

/** From a trait to the function that sets it in the model. */
export const setter = (model) => (trait) => (value) => put(model, trait, value);

/**
 * Build a player into its element.
 * @param {{model: object, el: HTMLElement}} view
 * @param {string} name the prefix of its part of the address.
 * @param {Object<string, {root: HTMLElement, set: Function, valid: Function, button?: HTMLElement}>} controls by the
 *   traits that they set, some with a button; the control of the photograph is added before them.
 * @param {object} parts panels; elements `below` them; keys(now) of the arrays to load; show(now, ...arrays), where now
 *   has the traits' values, made valid.
 */
export function player({ model, el }, name, controls, { panels, below, keys, show }) {
  const texts = (model.get("about").photographs ?? []).map(({ name, title }) => ({
    value: name,
    text: title ? `${name} (${title})` : name,
  }));
  if (texts.length) controls = { photograph: choice("Photograph", texts, setter(model)("photograph")), ...controls };
  const traits = Object.keys(controls);
  const status = statusLine();

  const arrays = async () => {
    const now = Object.fromEntries(traits.map((trait) => [trait, controls[trait].valid(model.get(trait))]));
    for (const trait of traits) controls[trait].set(now[trait]);
    return [now, ...(await Promise.all(keys(now).map((key) => load(model, key))))];
  };
  const refresh = newestOnly(el, status, arrays, (loaded) => show(...loaded));

  el.classList.add("explorer");
  keepInAddress(model, name, traits);
  for (const trait of traits) model.on(`change:${trait}`, refresh);
  if (texts.length === 1) controls.photograph.root.hidden = true;
  const moved = Object.values(controls).flatMap(({ root, button }) => [root, button].filter(Boolean));
  el.replaceChildren(
    element("div", { class: "controls" }, ...moved),
    element("div", { class: "panels" }, ...panels.map(({ root }) => root)),
    ...below,
    status.root,
  );
  refresh();
}

/**
 * A function that loads and then shows what was asked for last; what was asked for before is not shown any more.
 * Until then, the explorer is marked as busy.
 */
function newestOnly(el, status, load, show) {
  let asked = 0;
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
      if (mine === asked) el.setAttribute("aria-busy", false);
    }
  });
  return () => {
    asked++;
    el.setAttribute("aria-busy", true);
    draw();
  };
}
