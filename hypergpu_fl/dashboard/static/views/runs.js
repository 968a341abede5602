import { get, of } from "../api.js";
import { ACROSS, chart } from "../charts.js";
import { badge, card, empty, h, name, table } from "../dom.js";
import * as format from "../format.js";

const MOST = 6; // runs on one chart: as many as there are colours

export function runs() {
  const chosen = new Set();
  const go = h("button", { type: "button", disabled: true, onclick: () => { location.hash = `#/compare?runs=${[...chosen].map(encodeURIComponent).join(",")}`; } }, "Compare");
  const rows = table([
    { title: "", cell: (row) => choice(row.run) },
    { title: "Run", key: "run", sort: (row) => row.run, cell: (row) => h("a", { href: `#/run/${encodeURIComponent(row.run)}/training` }, name(row.run)) },
    { title: "State", key: "state", sort: (row) => row.state, cell: (row) => h("span", { title: row.failure }, badge(row.state)) },
    { title: "Task", cell: (row) => name(row.task || "–") },
    { title: "Rounds", key: "rounds", n: true, sort: (row) => row.rounds, cell: (row) => `${format.count(row.rounds)}${row.rounds_wanted ? ` / ${format.count(row.rounds_wanted)}` : ""}` },
    { title: "Metric", n: true, cell: (row) => { const [first] = Object.entries(row.metrics ?? {}); return first ? [h("span", { class: "dim" }, `${first[0]} `), format.number(first[1])] : "–"; } },
    { title: "Loss", key: "loss", n: true, sort: (row) => row.loss, cell: (row) => format.number(row.loss) },
    { title: "Nodes", key: "nodes", n: true, sort: (row) => row.nodes, cell: (row) => format.count(row.nodes) },
    { title: "Sent up", key: "up", n: true, sort: (row) => row.bytes_up, cell: (row) => format.bytes(row.bytes_up) },
    { title: "Last event", key: "last", n: true, sort: (row) => row.changed_s, cell: (row) => h("span", { class: "dim" }, row.seen) },
  ], { label: "runs", sort: { key: "last", down: true } });
  // `checked` is set as a property: as an attribute it would differ from the box that is shown, and lose its focus.
  function choice(run) {
    const box = h("input", { type: "checkbox", "aria-label": `choose ${run} to compare`, onchange: () => {
      box.checked ? chosen.add(run) : chosen.delete(run);
      go.disabled = chosen.size < 2 || chosen.size > MOST;
      go.textContent = chosen.size > MOST ? `Compare at most ${MOST}` : chosen.size > 1 ? `Compare ${chosen.size}` : "Compare";
    } });
    box.checked = chosen.has(run);
    return box;
  }

  const body = h("div", {}, empty("Loading", ""));
  const element = h("div", {}, h("div", { class: "head" }, h("h2", { class: "title" }, "Runs"), h("div", { class: "acts" }, go)), h("section", { class: "card" }, body));
  let timer = 0, left = false;

  async function look() {
    try {
      const found = await get("api/runs");
      if (left) return;
      if (!found.length) body.replaceChildren(empty("No run yet", "Start one, and it appears here:", "hypergpu run"));
      else {
        if (body.firstChild !== rows.element) body.replaceChildren(rows.element);
        rows.draw(found.map((row) => ({ ...row, key: row.run, seen: format.ago(row.changed_s) })));
      }
    } catch { /* the server is away: what was shown stays */ }
    if (!left) timer = setTimeout(look, 1000);
  }
  look();
  return { element, leave: () => { left = true; clearTimeout(timer); } };
}

export function compare(query) {
  const names = (query.get("runs") ?? "").split(",").filter(Boolean).slice(0, MOST);
  const plots = h("div", { class: "grid" }), list = h("div");
  let across = "rounds", histories = [];
  const buttons = Object.keys(ACROSS).map((key) => h("button", { type: "button", "aria-pressed": String(key === across), onclick: () => { across = key; buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.textContent === `over ${key}`))); draw(); } }, `over ${key}`));
  const element = h("div", {}, h("div", { class: "head" }, h("h2", { class: "title" }, "Compare"), h("div", { class: "acts" }, buttons)), plots, list);

  function draw() {
    const [label, value] = ACROSS[across];
    const metrics = [...new Set(histories.flatMap((one) => one.rows.flatMap((row) => Object.keys(row).filter((key) => key.startsWith("metrics.")))))];
    plots.replaceChildren();
    for (const key of [...metrics, "loss"].slice(0, 6)) {
      const title = key.replace("metrics.", "");
      const plot = chart({ label: `${title} over ${across}`, x: { label, value }, series: histories.map((one, i) => ({ label: one.name, colour: i + 1 })) });
      plots.append(card(title[0].toUpperCase() + title.slice(1), null, null, h("div", { class: "body" }, plot.element)));
      const points = histories.map((one) => { let up = 0; return new Map(one.rows.map((row) => { up += row.bytes_up; return [across === "rounds" ? row.round : across === "seconds" ? row.seconds : up, row[key] ?? null]; })); });
      const xs = [...new Set(points.flatMap((one) => [...one.keys()]))].sort((a, b) => a - b);
      plot.draw([xs, ...points.map((one) => xs.map((x) => one.get(x) ?? null))]);
    }
  }

  Promise.all(names.map(async (one) => ({ name: one, run: await get(`api/runs/${encodeURIComponent(one)}`), rows: await get(of(one, "rounds.json")) }))).then((found) => {
    histories = found;
    draw();
    const rows = table([
      { title: "Run", cell: (row) => h("a", { href: `#/run/${encodeURIComponent(row.key)}/training` }, name(row.key)) },
      { title: "State", cell: (row) => badge(row.state) }, { title: "Rounds", n: true, cell: (row) => format.count(row.rounds) },
      { title: "Time", n: true, cell: (row) => format.seconds(row.seconds) }, { title: "Loss", n: true, cell: (row) => format.number(row.loss) },
      { title: "Sent up", n: true, cell: (row) => format.bytes(row.bytes_up) }, { title: "Sent down", n: true, cell: (row) => format.bytes(row.bytes_down) },
    ], { label: "compared runs" });
    list.replaceChildren(h("section", { class: "card" }, rows.element));
    rows.draw(found.map((one) => ({ ...one.run, key: one.name })));
  }, (error) => list.replaceChildren(empty("These runs cannot be compared", error.message)));
  if (!names.length) list.replaceChildren(empty("Nothing to compare", "Choose two runs or more in the list."));
  return { element };
}
