import { get, of, paced } from "../api.js";
import { badge, card, empty, h, table } from "../dom.js";
import * as format from "../format.js";
import { nodeLink } from "./timeline.js";

export function events(run) {
  const PAGE = 50;
  let older = [], oldest = null, kinds = new Set(), only = "", newest = [];
  const select = h("select", { "aria-label": "Kind of event", onchange: () => { only = select.value; draw(); } }, h("option", { value: "" }, "Everything"));
  const more = h("button", { type: "button", hidden: true, onclick: () => back() }, "Older"); // hidden until it is known from where
  const list = table([
    { title: "At", n: true, cell: (row) => format.seconds(row.at_s) },
    { title: "Round", n: true, cell: (row) => (row.round ? h("a", { href: `#/run/${encodeURIComponent(run)}/travel?round=${row.round}` }, row.round) : "–") },
    { title: "What", cell: (row) => badge(row.kind) },
    { title: "Node", cell: (row) => (row.node ? nodeLink(run, row.node) : "–") },
    { title: "In words", wrap: true, cell: (row) => row.text },
  ], { tall: true, label: "events" });
  const none = h("div");
  const acts = ["csv", "json"].map((form) => h("a", { class: "button", href: of(run, `events.${form}?rounds=500`), download: `${run}-events.${form}` }, form.toUpperCase()));
  const element = h("div", {}, card("Events", "refusals, exclusions, roll-backs, who came and went; newest first", [select, ...acts], list.element, none), more);

  function draw() {
    const rows = [...newest, ...older];
    for (const row of rows) if (!kinds.has(row.kind)) { kinds.add(row.kind); select.append(h("option", { value: row.kind }, row.kind)); }
    const shown = rows.filter((row) => !only || row.kind === only);
    list.element.hidden = !shown.length;
    none.replaceChildren(shown.length ? "" : empty("Nothing happened", "No node was refused, excluded, lost or rolled back in these rounds."));
    const seen = new Map();
    list.draw(shown.map((row) => { const key = `${row.round} ${row.at_s} ${row.kind} ${row.node} ${row.text}`, times = (seen.get(key) ?? 0) + 1; seen.set(key, times); return { ...row, key: `${key} ${times}` }; }));
    more.hidden = !oldest || oldest <= 1;
  }

  async function back() {
    more.disabled = true; // a second click meanwhile would fetch the same page again
    try {
      const found = await get(of(run, `events.json?before=${oldest}&rounds=${PAGE}`));
      older = [...older, ...found];
      oldest = Math.max(1, oldest - PAGE);
      draw();
    } catch { /* the server is away: what was shown stays */ }
    more.disabled = false;
  }

  let state = null;
  const look = paced(async () => {
    if (!state) return;
    const last = state.rounds.length + (state.run.open ? 1 : 0);
    const first = oldest === null ? Math.max(1, last - PAGE + 1) : null;
    if (first !== null) oldest = first;
    const depth = Math.max(1, Math.min(500, last - oldest + 1));
    if (!older.length) newest = await get(of(run, `events.json?rounds=${depth}`));
    else { const edge = Math.max(...older.map((row) => row.round)); newest = (await get(of(run, `events.json?rounds=${Math.min(500, last - edge)}`))).filter((row) => row.round > edge); }
    draw();
  });
  return { element, update: (next) => { state = next; look.now(); }, leave: look.stop };
}
