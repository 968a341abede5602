import { of } from "../api.js";
import { ACROSS, chart } from "../charts.js";
import { badge, card, empty, h, stats, table } from "../dom.js";
import * as format from "../format.js";

export function training(run) {
  let across = "rounds", latest = null, plots = null, shape = "";
  const buttons = Object.keys(ACROSS).map((key) => h("button", { type: "button", "aria-pressed": String(key === across), onclick: () => { across = key; buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.textContent === `over ${key}`))); shape = ""; update(latest); } }, `over ${key}`));
  const head = h("div", { class: "head" }), figures = h("div"), charts = h("div");
  const rounds = table([
    { title: "Round", key: "round", n: true, sort: (row) => row.round, cell: (row) => h("a", { href: `#/run/${encodeURIComponent(run)}/travel?round=${row.round}` }, format.count(row.round)) },
    { title: "Ended at", n: true, cell: (row) => format.seconds(row.seconds) },
    { title: "Took", key: "took", n: true, sort: (row) => row.took_s, cell: (row) => format.seconds(row.took_s) },
    { title: "Metric", n: true, cell: (row) => { const [first] = Object.entries(row.metrics); return first ? format.number(first[1]) : "–"; } },
    { title: "Loss", key: "loss", n: true, sort: (row) => row.loss, cell: (row) => format.number(row.loss) },
    { title: "Selected", n: true, cell: (row) => row.selected }, { title: "Arrived", n: true, cell: (row) => row.arrived },
    { title: "Late", n: true, cell: (row) => row.late }, { title: "Refused", n: true, cell: (row) => row.refused },
    { title: "Up", n: true, cell: (row) => format.bytes(row.bytes_up) }, { title: "Down", n: true, cell: (row) => format.bytes(row.bytes_down) },
    { title: "Seal", cell: (row) => badge(row.status, row.status.toLowerCase()) },
  ], { tall: true, label: "rounds", sort: { key: "round", down: true } });
  const exported = ["csv", "json"].map((form) => h("a", { class: "button", href: of(run, `rounds.${form}`), download: `${run}-rounds.${form}` }, form.toUpperCase()));
  const list = card("Rounds", null, exported, rounds.element);
  const element = h("div", {}, head, figures, charts, list);

  function build(state, metrics) {
    const [label, value] = ACROSS[across];
    const x = { label, value };
    const make = (title, note, series, pick, form) => {
      const plot = chart({ label: `${title} over ${across}`, x, series, value: form });
      return { card: card(title, note, null, h("div", { class: "body" }, plot.element)), draw: (rows, xs) => plot.draw([xs, ...pick.map((one) => rows.map(one))]) };
    };
    plots = [
      ...metrics.slice(0, 4).map((key, i) => make(key[0].toUpperCase() + key.slice(1), null, [{ label: key, colour: 1 + (i % 6) }], [(row) => row.metrics[key] ?? null], format.number)),
      make("Loss", null, [{ label: "loss", colour: 3 }], [(row) => row.loss], format.number),
      make("Updates a round", null, [{ label: "selected", colour: 5 }, { label: "arrived", colour: 2 }, { label: "late", colour: 1 }, { label: "refused", colour: 3 }], [(row) => row.selected, (row) => row.arrived, (row) => row.late, (row) => row.refused], format.count),
      make("Bytes a round", null, [{ label: "up", colour: 1 }, { label: "down", colour: 5 }], [(row) => row.bytes_up, (row) => row.bytes_down], format.bytes),
      make("Length of a round", "on the run's clock", [{ label: "took", colour: 4 }], [(row) => row.took_s], format.seconds),
    ];
    charts.replaceChildren(h("div", { class: "grid" }, plots.map((one) => one.card)));
  }

  function update(state) {
    if (!state?.run) return;
    latest = state;
    const { run: facts, rounds: rows } = state;
    head.replaceChildren(h("span", { class: "sub" }, `${facts.task} · ${facts.clock === "virtual" ? "simulated, on a virtual clock" : "on the wall clock"}`), h("div", { class: "acts" }, buttons));
    const best = Object.entries(facts.metrics ?? {}).slice(0, 2).map(([key, value]) => [key[0].toUpperCase() + key.slice(1), format.number(value)]);
    const open = facts.open ? `${facts.open.answered} / ${facts.open.sent} answered` : "";
    figures.replaceChildren(
      facts.failure ? h("p", { class: "note" }, facts.failure) : "",
      stats([
        ["Round", format.count(facts.rounds), facts.rounds_wanted ? `of ${format.count(facts.rounds_wanted)}` : open], ...best, ["Loss", format.number(facts.loss)],
        ["Time on its clock", format.seconds(facts.seconds)], facts.eta_s ? ["Left, about", format.left(facts.eta_s)] : ["Nodes", format.count(facts.nodes)],
        ["Counted", format.count(facts.counted), `${format.count(facts.late)} late`], ["Refused", format.count(facts.refused)], ["Sent up", format.bytes(facts.bytes_up)],
      ]),
    );
    if (!rows.length) { charts.replaceChildren(h("section", { class: "card" }, empty("No round has ended yet", open ? `Round ${facts.open.round}: ${open}.` : "The first one appears here as soon as it closes."))); list.hidden = true; shape = ""; return; }
    list.hidden = false;
    const metrics = [...new Set(rows.flatMap((row) => Object.keys(row.metrics)))];
    if (shape !== `${across} ${metrics}`) { shape = `${across} ${metrics}`; build(state, metrics); }
    let up = 0;
    const xs = rows.map((row) => { up += row.bytes_up; return across === "rounds" ? row.round : across === "seconds" ? row.seconds : up; });
    plots.forEach((plot) => plot.draw(rows, xs));
    rounds.draw(rows.slice(-500).map((row) => ({ ...row, key: row.round })));
  }
  return { element, update };
}
