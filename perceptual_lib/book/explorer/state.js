// The reader's choices: traits of the model, the address that keeps them, and redrawing once for each frame.

/**
 * Keep traits in the address, `#NAME.trait=value&...`, so that what is seen can be sent as a link. Links in the page
 * set them by their attribute `data-state`, as the theme's script fails on a hash in `href` that is not a selector.
 * Only for static pages: a live notebook's address is not ours. Values that do not fit the trait's type are ignored.
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
      clearTimeout(timer); // browsers limit how often the address may change
      timer = setTimeout(write, 250);
    });
  }
}

/** Set a trait, and tell Python and the other parts of the page. */
export function put(model, trait, value) {
  model.set(trait, value);
  model.save_changes();
}

/** The value if it is one of the options, else the first option: an address may say anything. */
export const oneOf = (options, value) => (options.includes(value) ? value : options[0]);

/** The nearest of the values that a slider can have. */
export function onGrid(value, [low, high, step]) {
  const within = Math.min(high, Math.max(low, value || 0));
  return Number((Math.round(within / step) * step).toFixed(6));
}

/** A function that calls `draw` at most once for each frame, however often it is called itself. */
export function eachFrame(draw) {
  let waiting = 0;
  return () => {
    waiting ||= requestAnimationFrame(() => {
      waiting = 0;
      draw();
    });
  };
}
