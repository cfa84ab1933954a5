// Tables of data can be sorted by their columns, and copied for a spreadsheet. Without this script they are plain.

(() => {
  const NUMBER = /^[<>~≤≥≈]?\s*([-+]?(?:\d[\d,]*)?\.?\d+(?:e[-+]?\d+)?)/i;

  /** What a reader sees in a cell, in one line. */
  const words = (cell) => cell.innerText.replace(/\s+/g, " ").trim();

  /** The number that a cell begins with, as in "0.43 (0.40 to 0.46)"; NaN where there is none. */
  function number(text) {
    const found = NUMBER.exec(text.replace(/^\u2212/, "-"));
    return found ? Number(found[1].replaceAll(",", "")) : NaN;
  }

  const isEmpty = (text) => /^(–|nan|none)?$/i.test(text);

  /** The rows in the order of a column; cells with nothing in them come last, whatever the direction. */
  function sorted(rows, column, direction) {
    const texts = new Map(rows.map((row) => [row, words(row.cells[column])]));
    const [empty, full] = [true, false].map((wanted) => rows.filter((row) => isEmpty(texts.get(row)) === wanted));
    const numeric = full.every((row) => !Number.isNaN(number(texts.get(row))));
    const compare = numeric
      ? (a, b) => number(a) - number(b)
      : (a, b) => a.localeCompare(b, "en", { numeric: true });
    full.sort((a, b) => direction * compare(texts.get(a), texts.get(b)));
    return [...full, ...empty];
  }

  /** The heads of the columns, the lowest with words in it for each; none where cells are merged or rows are in groups. */
  function columnHeads(table) {
    const fixed = "[rowspan]:not([rowspan='1']), [colspan]:not([colspan='1'])";
    if (table.querySelector(fixed) || table.classList.contains("grouped")) return [];
    const rows = [...table.tHead.rows].reverse();
    return [...rows[0].cells].map((_, column) => rows.map((row) => row.cells[column]).find((cell) => cell && words(cell)));
  }

  /** A button in each head: up, down, and as it was. */
  function makeSortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    columnHeads(table).forEach((head, column) => {
      if (!head) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "table-sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { null: "ascending", ascending: "descending" }[head.getAttribute("aria-sort")];
        table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        body.append(...(next ? sorted(original, column, next === "ascending" ? 1 : -1) : original));
      });
    });
  }

  /** Tab-separated lines; a merged cell stands in the first of its places. */
  function tabSeparated(table) {
    const lines = [...table.rows].map(() => []);
    [...table.rows].forEach((row, down) => {
      for (const cell of row.cells) {
        let across = 0;
        while (lines[down][across] !== undefined) across += 1;
        for (let y = 0; y < cell.rowSpan; y += 1)
          for (let x = 0; x < cell.colSpan; x += 1) lines[down + y][across + x] = x || y ? "" : words(cell);
      }
    });
    return lines.map((line) => line.join("\t")).join("\n");
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Where the page may not use the clipboard, as from a file: the old way.
      const area = document.createElement("textarea");
      area.value = text;
      area.style.position = "fixed"; // does not scroll the page
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  function addCopyButton(table) {
    const tools = document.createElement("div");
    tools.className = "table-tools";
    tools.innerHTML = '<button type="button">Copy table</button> <span role="status"></span>';
    const [button, status] = tools.children;
    button.addEventListener("click", async () => {
      await copy(tabSeparated(table));
      button.focus();
      status.textContent = "Copied";
      setTimeout(() => (status.textContent = ""), 2000);
    });
    table.before(tools);
  }

  const SHORT = 28; // letters that fit into a line of a phone: what has more may be broken

  for (const table of document.querySelectorAll(".bd-article table")) {
    for (const cell of table.querySelectorAll("td")) cell.classList.toggle("short", cell.textContent.length <= SHORT);
    if (!table.tHead || table.tBodies.length !== 1) continue;
    makeSortable(table);
    addCopyButton(table);
  }
})();
