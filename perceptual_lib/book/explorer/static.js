// A static page's stand-in for anywidget's live model: it keeps the traits, and reads arrays from files of the site.

function standIn(traits, chunks) {
  const listeners = new Map();
  const emit = (event, ...values) => (listeners.get(event) ?? []).forEach((listener) => listener(...values));
  return {
    isStatic: true,
    emit,
    has: (key) => key in chunks,
    get: (trait) => traits[trait],
    set(trait, value) {
      if (traits[trait] === value) return;
      traits[trait] = value;
      emit(`change:${trait}`);
    },
    save_changes() {},
    on: (event, listener) => listeners.set(event, [...(listeners.get(event) ?? []), listener]),
    off: (event, listener) => listeners.set(event, (listeners.get(event) ?? []).filter((each) => each !== listener)),
    send({ need: key }) {
      if (!key) return;
      const answer = key in chunks ? chunk(chunks[key]) : Promise.reject(new Error("this page does not have that map"));
      answer.then(
        ([head, bytes]) => emit("msg:custom", { ...head, key }, [new DataView(bytes.buffer)]),
        (error) => emit("msg:custom", { key, error: error.message }, []),
      );
    },
  };
}

/** Head and bytes of a chunk, which is in the page or in a script of the site (file:// forbids to `fetch` data). */
async function chunk(name) {
  const fetched = !document.getElementById(name);
  if (fetched) {
    const root = document.documentElement.dataset.content_root ?? "";
    const script = document.createElement("script");
    script.src = `${root}_static/explorer/${name}.js`;
    const waiting = new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Error("a part of this page could not be loaded"));
    });
    document.head.append(script);
    await waiting;
  }
  const element = document.getElementById(name);
  const { dataset, textContent } = element;
  if (fetched) element.remove(); // whoever asked keeps the decoded bytes
  const bytes = await (await fetch(`data:application/octet-stream;base64,${textContent}`)).arrayBuffer();
  return [JSON.parse(dataset.head), new Uint8Array(bytes)];
}

function mountWhenSeen(el, explorer, traits, chunks) {
  const model = standIn(traits, chunks);
  const observer = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      explorer.render({ model, el });
    },
    { rootMargin: "300px" },
  );
  observer.observe(el);
}

// This is here and not in state.js, because the explorer that a link changes may not be mounted until it is seen.
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-state]");
  if (!link) return;
  event.preventDefault();
  location.hash = link.dataset.state;
  document.querySelector(".explorer").scrollIntoView();
});
