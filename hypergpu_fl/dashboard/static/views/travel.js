import { get, of } from "../api.js";
import { badge, card, empty, h, stats, table } from "../dom.js";
import * as format from "../format.js";
import { bar, legend, nodeLink, span } from "./timeline.js";

export function travel(run, query) {
  let wanted = Number(query.get("round")) || 0, shown = 0, last = 0, asked = 0, closed = false;
  const input = h("input", { type: "range", min: 1, max: 1, step: 1, "aria-label": "Round", id: "round" });
  const output = h("output", { for: "round" }, "");
  const step = (by, text, label) => h("button", { type: "button", "aria-label": label, onclick: () => go(Math.min(last, Math.max(1, (shown || last) + by))) }, text);
  const now = h("button", { type: "button", onclick: () => { wanted = 0; go(last, true); } }, "Newest");
  const control = h("section", { class: "card" }, h("header", {}, h("div", { class: "slider" }, output, step(-1, "‹", "the round before"), input, step(1, "›", "the round after"), now)));
  control.querySelector(".slider").parentElement.firstChild.setAttribute("role", "group");
  const body = h("div");
  const element = h("div", {}, control, body);
  const works = table([
    { title: "Node", cell: (row) => nodeLink(run, row.node) }, { title: "What came of it", cell: (row) => badge(row.verdict) },
    { title: "Timeline", cell: (row) => bar(row, row.from_s, row.to_s) },
    { title: "Steps", n: true, cell: (row) => format.count(row.steps) }, { title: "Codec", cell: (row) => row.codec ?? "–" }, { title: "Base", n: true, cell: (row) => format.count(row.base) }, { title: "Stale", n: true, cell: (row) => format.count(row.staleness) },
    { title: "Loss", n: true, cell: (row) => format.number(row.train_loss) }, { title: "Down", n: true, cell: (row) => format.bytes(row.bytes_down) }, { title: "Up", n: true, cell: (row) => format.bytes(row.bytes_up) },
    { title: "Weight", n: true, cell: (row) => format.share(row.weight) }, { title: "Earned until then", n: true, cell: (row) => format.money(row.wei) }, { title: "Why", wrap: true, cell: (row) => row.reason },
  ], { label: "what each node did" });
  const list = card("What each node did", null, legend(), works.element);
  const figures = h("div"), none = h("div");
  input.addEventListener("input", () => { wanted = Number(input.value); go(wanted); });

  async function go(number, stay = false) {
    if (!number) return;
    if (!stay) { wanted = number; history.replaceState(null, "", `#/run/${encodeURIComponent(run)}/travel?round=${number}`); }
    closed = closed && shown === number;
    shown = number;
    input.value = number;
    input.setAttribute("aria-valuetext", `round ${number} of ${last}`);
    output.textContent = `Round ${format.count(number)}`;
    const mine = (asked += 1);
    let round;
    try { round = await get(of(run, `rounds/${number}`)); } catch (error) { if (mine === asked) body.replaceChildren(h("section", { class: "card" }, empty("This round cannot be shown", error.message))); return; }
    if (mine !== asked) return;
    closed = round.ended_s !== null;
    const row = round.row, [from_s, to_s] = span(round);
    const metrics = Object.entries(row?.metrics ?? {}).slice(0, 2).map(([key, value]) => [key[0].toUpperCase() + key.slice(1), format.number(value)]);
    const count = (verdict) => round.works.filter((work) => work.verdict === verdict).length;
    figures.replaceChildren(stats([["State", round.ended_s === null ? "open" : "closed"], ...metrics, ["Loss", format.number(round.loss)], ["Began at", format.seconds(round.started_s)], ["Took", round.ended_s === null ? "–" : format.seconds(round.ended_s - round.started_s)], ["Counted", format.count(count("counted") + count("late")), `${count("late")} late`], ["Refused", format.count(count("refused"))], ["Model", format.hash(round.model, 6)]]));
    works.draw(round.works.map((work) => ({ ...work, key: work.order, from_s, to_s, wei: round.pay[work.node] ?? "0" })));
    none.replaceChildren(round.works.length ? "" : empty("No order", "Nobody was given work in this round."));
    if (body.firstChild !== figures) body.replaceChildren(figures, list, none);
  }

  function update(state) {
    last = state.rounds.length + (state.run.open ? 1 : 0);
    input.max = Math.max(1, last);
    input.disabled = !last;
    if (!last) { body.replaceChildren(h("section", { class: "card" }, empty("No round has begun yet", "The slider goes over every round as soon as there is one."))); return; }
    if (!wanted) go(last, true);
    else if (wanted !== shown || !closed) go(wanted);
  }
  return { element, update };
}
