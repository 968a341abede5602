// Elements are made, never parsed: whatever a node calls itself is text.

const SVG = "http://www.w3.org/2000/svg";

export function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function s(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export function card(title, note, acts, ...body) {
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, title), note ? h("p", {}, note) : null, acts ? h("div", { class: "acts" }, acts) : null), ...body);
}

export function stats(pairs) {
  return h("dl", { class: "stats" }, pairs.map(([name, value, small]) => h("div", { class: "stat" }, h("dt", {}, name), h("dd", { title: `${value}${small ? ` ${small}` : ""}` }, value, small ? h("small", {}, ` ${small}`) : null))));
}

export function empty(title, text, code) {
  return h("p", { class: "empty" }, h("b", {}, title), text, code ? [" ", h("code", {}, code)] : null);
}

const KINDS = { running: "info", completed: "good", failed: "bad", silent: "warn", stopped: "warn", starting: "info", "broken off": "bad", unreadable: "bad", waiting: "", sound: "good", joining: "info", suspect: "warn", excluded: "bad", offline: "bad", counted: "good", late: "info", working: "", dropped: "warn", refused: "bad", joined: "info", returned: "good", left: "warn", "rolled back": "bad", diverged: "bad", deserted: "bad", readmitted: "info", resumed: "info", FINALIZED: "good", INCLUDED: "good", SENT: "info", SIGNED: "info", PREPARED: "", sealed: "good", unsealed: "" };

export function kind(state) {
  return KINDS[state] ?? "";
}

export function badge(state, text) {
  return h("span", { class: `badge ${kind(state)}` }, text ?? state);
}

export function name(text) {
  return h("bdi", { class: "name", title: text }, text);
}

// A table whose cells stay from one drawing to the next unless they change: reading and the focus stay where they are.
// So what a cell's buttons do may rest on the row's key alone.
export function table(columns, { tall = false, label, sort = null } = {}) {
  let order = sort, shown = [];
  const body = h("tbody");
  const heads = columns.map((column) => {
    const th = h("th", { class: column.n ? "n" : null, scope: "col" });
    if (column.sort) {
      th.append(h("button", { type: "button", class: "sort", onclick: () => {
        order = { key: column.key, down: order?.key === column.key ? !order.down : Boolean(column.n) };
        draw(shown);
      } }, column.title));
    } else th.append(column.title);
    return th;
  });
  const element = h("div", { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", {}, h("thead", {}, h("tr", {}, heads)), body));
  const known = new Map();
  let drawn = false;

  function draw(rows) {
    shown = rows;
    const column = order && columns.find((one) => one.key === order.key);
    const sorted = column ? [...rows].sort((a, b) => compare(column.sort(a), column.sort(b)) * (order.down ? -1 : 1)) : rows;
    heads.forEach((th, i) => (order && columns[i].key === order.key ? th.setAttribute("aria-sort", order.down ? "descending" : "ascending") : th.removeAttribute("aria-sort")));
    const kept = new Set();
    sorted.forEach((row, place) => {
      const key = row.key, text = JSON.stringify(row);
      kept.add(key);
      let entry = known.get(key);
      if (!entry || entry.text !== text) {
        const cells = columns.map((one, i) => h(i ? "td" : "th", { class: [one.n ? "n" : "", one.wrap ? "wrap" : "", one.mono ? "mono" : ""].join(" ").trim() || null, scope: i ? null : "row" }, one.cell(row)));
        if (entry) cells.forEach((cell, i) => { if (!cell.isEqualNode(entry.tr.cells[i])) entry.tr.cells[i].replaceWith(cell); });
        known.set(key, (entry = { tr: entry?.tr ?? h("tr", { class: drawn ? "fresh" : null }, cells), text }));
      }
      if (body.children[place] !== entry.tr) body.insertBefore(entry.tr, body.children[place] ?? null);
    });
    for (const [key, entry] of known) if (!kept.has(key)) { entry.tr.remove(); known.delete(key); }
    drawn = true;
  }
  return { element, draw };
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return a < b ? -1 : 1;
}
