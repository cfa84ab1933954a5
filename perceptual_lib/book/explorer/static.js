// A static page's stand-in for the model that anywidget gives live: traits of its own, arrays from files of the site.

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
      const kept = key.startsWith("kernel/") ? Object.values(chunks) : null;
      const answer = key in chunks ? chunk(chunks[key], kept) : Promise.reject(new Error("this page does not have that map"));
      answer.then(
        ([head, bytes]) => emit("msg:custom", { ...head, key }, [new DataView(bytes.buffer)]),
        (error) => emit("msg:custom", { key, error: error.message }, []),
      );
    },
  };
}

/**
 * Head and bytes of a chunk: written into the page, or in a script of the site (file:// forbids `fetch`), which is kept
 * for the next visit, and the only copy then, where the chunk is one of `kept`.
 */
async function chunk(name, kept = null) {
  if (!document.getElementById(name)) {
    const root = document.documentElement.dataset.content_root ?? "";
    const script = document.createElement("script");
    script.src = `${root}_static/explorer/${name}.js`;
    if (kept && location.protocol !== "file:") script.src = await fromCache(script.src, kept);
    const waiting = new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Error("a part of this page could not be loaded"));
    });
    document.head.append(script);
    await waiting;
    URL.revokeObjectURL(script.src); // of the copy; nothing of another address
  }
  const element = document.getElementById(name);
  const { dataset, textContent } = element;
  if (kept) element.remove();
  const bytes = await (await fetch(`data:application/octet-stream;base64,${textContent}`)).arrayBuffer();
  return [JSON.parse(dataset.head), new Uint8Array(bytes)];
}

/** The address of a copy of a file, which a cache has from now on; what is not `kept` any more leaves it. */
async function fromCache(address, kept) {
  const cache = await globalThis.caches?.open("perceptual-ball").catch(() => null);
  if (!cache) return address; // no secure context, or no room
  for (const { url } of await cache.keys()) if (!kept.some((name) => url.includes(name))) await cache.delete(url);
  let found = await cache.match(address);
  if (!found) {
    found = await fetch(address).catch(() => null);
    if (!found?.ok) throw new Error("a part of this page could not be loaded");
    await cache.put(address, found.clone()).catch(() => {});
  }
  return URL.createObjectURL(await found.blob());
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
