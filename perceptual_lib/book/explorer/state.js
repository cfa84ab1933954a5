// What is chosen: traits of the model, the address that keeps them, and when they are drawn.

/**
 * Traits that the address keeps, so that what is seen can be sent as a link: `#NAME.trait=value&...`. Links of the page
 * move them by what they have as `data-state`: of a hash that is no selector the theme's script would complain.
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

/** A value where it is one of those that there are, else the first of these: an address may say anything. */
export const oneOf = (options, value) => (options.includes(value) ? value : options[0]);

/** The nearest of the values that a slider can have. */
export function onGrid(value, [low, high, step]) {
  const within = Math.min(high, Math.max(low, value || 0));
  return Number((Math.round(within / step) * step).toFixed(6));
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
