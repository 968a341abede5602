import { get, of, paced } from "../api.js";
import { chart } from "../charts.js";
import { badge, card, empty, h, kind, name, s, stats, table } from "../dom.js";
import * as format from "../format.js";
import { nodeLink } from "./timeline.js";

export function nodes(run) {
  const found = table([
    { title: "Node", key: "name", sort: (row) => row.place, cell: (row) => nodeLink(run, row.name) },
    { title: "Health", key: "state", sort: (row) => row.state, cell: (row) => badge(row.state) },
    { title: "Now", cell: (row) => row.phase },
    { title: "Up", key: "up", n: true, sort: (row) => row.uplink_bps, cell: (row) => format.rate(row.uplink_bps) },
    { title: "Down", key: "down", n: true, sort: (row) => row.downlink_bps, cell: (row) => format.rate(row.downlink_bps) },
    { title: "RTT", key: "rtt", n: true, sort: (row) => row.rtt_s, cell: (row) => format.seconds(row.rtt_s) },
    { title: "Jitter", n: true, cell: (row) => format.seconds(row.jitter_s) },
    { title: "Loss", n: true, cell: (row) => format.share(row.loss_rate) },
    { title: "Quality", key: "quality", n: true, sort: (row) => row.quality, cell: (row) => format.share(row.quality) },
    { title: "Plan", cell: (row) => (row.steps === null ? "–" : `${format.amount(row.steps, "step")}, ${row.codec || "–"}`) },
    { title: "At work", key: "util", n: true, sort: (row) => row.utilisation, cell: (row) => format.share(row.utilisation) },
    { title: "Stale", n: true, cell: (row) => format.count(row.staleness) },
    { title: "Success", n: true, cell: (row) => format.share(row.success_rate) },
    { title: "Weight", key: "weight", n: true, sort: (row) => row.weight, cell: (row) => format.share(row.weight) },
    { title: "Pay", key: "pay", n: true, sort: (row) => Number(row.wei), cell: (row) => format.money(row.wei) },
    { title: "Why", wrap: true, cell: (row) => (row.state === "sound" ? h("span", { class: "dim" }, row.device || "–") : row.reason) },
  ], { tall: true, label: "nodes", sort: { key: "name", down: false } });
  const figures = h("div"), map = h("div", { class: "body" }), none = h("div");
  const acts = ["csv", "json"].map((form) => h("a", { class: "button", href: of(run, `nodes.${form}`), download: `${run}-nodes.${form}` }, form.toUpperCase()));
  const mapCard = card("Links", "round trip against uplink; the larger, the better its quality", null, map);
  const list = card("Nodes", null, acts, found.element, none);
  const element = h("div", {}, figures, mapCard, list);
  let shown = "", drawn = [];
  const drawMap = () => map.clientWidth && map.replaceChildren(links(run, drawn, map.clientWidth - 32));
  new ResizeObserver(drawMap).observe(map);

  const look = paced(async () => {
    const rows = await get(of(run, "nodes.json"));
    const text = JSON.stringify(rows);
    if (text === shown) return;
    shown = text;
    const count = (state) => rows.filter((row) => row.state === state).length;
    figures.replaceChildren(stats([["Nodes", format.count(rows.length)], ["Sound", format.count(count("sound"))], ["Suspect", format.count(count("suspect"))], ["Excluded", format.count(count("excluded"))], ["Offline", format.count(count("offline"))], ["Earned", format.money(rows.some((row) => row.wei === null) ? null : rows.reduce((sum, row) => sum + BigInt(row.wei), 0n))]]));
    none.replaceChildren(rows.length ? "" : empty("No node yet", "A node appears as soon as it says who it is."));
    found.element.hidden = !rows.length;
    mapCard.hidden = !rows.some((row) => row.rtt_s && row.uplink_bps);
    drawn = rows;
    drawMap();
    found.draw(rows.map((row, place) => ({ ...row, key: row.name, place })));
  });
  return { element, entered: look.now, update: look.now, leave: look.stop };
}

function links(run, rows, W) {
  const known = rows.filter((row) => row.rtt_s > 0 && row.uplink_bps > 0);
  if (!known.length) return "";
  const H = 260, left = 78, bottom = 36;
  const ends = (values) => { const low = Math.min(...values), high = Math.max(...values); return [Math.log10(low) - 0.15, Math.log10(high) + 0.15]; };
  const [x0, x1] = ends(known.map((row) => row.rtt_s)), [y0, y1] = ends(known.map((row) => row.uplink_bps));
  const x = (value) => left + ((Math.log10(value) - x0) / (x1 - x0)) * (W - left - 14), y = (value) => H - bottom - ((Math.log10(value) - y0) / (y1 - y0)) * (H - bottom - 14);
  const ticks = (a, b) => { const found = []; for (let e = Math.floor(a); e <= Math.ceil(b); e += 1) for (const m of b - a > (W < 600 ? 0.9 : 1.6) ? [1] : [1, 2, 5]) if (Math.log10(m * 10 ** e) >= a && Math.log10(m * 10 ** e) <= b) found.push(m * 10 ** e); return found; };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "map of links" }, s("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, "aria-label": "round trip against uplink", role: "group" },
    ticks(x0, x1).map((v) => [s("line", { class: "plot-grid", x1: x(v), x2: x(v), y1: 8, y2: H - bottom }), s("text", { x: x(v), y: H - bottom + 16, "text-anchor": "middle" }, format.seconds(v))]),
    ticks(y0, y1).map((v) => [s("line", { class: "plot-grid", x1: left, x2: W - 10, y1: y(v), y2: y(v) }), s("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, format.rate(v))]),
    s("text", { x: W - 10, y: H - 4, "text-anchor": "end" }, "round trip"), s("text", { x: 4, y: 14 }, "uplink"),
    known.map((row) => s("a", { href: `#/run/${encodeURIComponent(run)}/node/${encodeURIComponent(row.name)}`, "aria-label": `${row.name}: ${row.state}, ${format.rate(row.uplink_bps)} up, ${format.seconds(row.rtt_s)} round trip` }, s("circle", { class: `dot ${kind(row.state)}`, cx: x(row.rtt_s), cy: y(row.uplink_bps), r: 4 + 6 * (row.quality ?? 0) }, s("title", {}, `${row.name}: ${row.state}`))))));
}

export function node(run, which) {
  const head = h("div", { class: "head" }, h("h2", { class: "title" }, h("bdi", { title: which }, which.length > 80 ? `${which.slice(0, 80)}…` : which))), figures = h("div"), plots = h("div", { class: "grid" }), rest = h("div");
  const element = h("div", {}, head, figures, plots, rest);
  const x = { label: "round", value: format.count };
  const parts = chart({ label: "parts of its journeys", x, value: format.seconds, series: [{ label: "down", colour: 5 }, { label: "training", colour: 1 }, { label: "up", colour: 2 }, { label: "whole", colour: 3 }] });
  const weight = chart({ label: "weight of its updates", x, value: format.share, series: [{ label: "weight", colour: 1 }] });
  plots.append(card("Journeys", null, null, h("div", { class: "body" }, parts.element)), card("Weight", "of each update in its round's step", null, h("div", { class: "body" }, weight.element)));
  const rounds = table([
    { title: "Round", n: true, cell: (row) => h("a", { href: `#/run/${encodeURIComponent(run)}/travel?round=${row.round}` }, row.round) },
    { title: "Verdict", cell: (row) => badge(row.verdict) }, { title: "Steps", n: true, cell: (row) => format.count(row.steps) }, { title: "Loss", n: true, cell: (row) => format.number(row.train_loss) },
    { title: "Codec", cell: (row) => row.codec ?? "–" }, { title: "Up", n: true, cell: (row) => format.bytes(row.bytes_up) }, { title: "Took", n: true, cell: (row) => format.seconds(row.total_s) },
    { title: "Weight", n: true, cell: (row) => format.share(row.weight) }, { title: "Why", wrap: true, cell: (row) => row.refusal ?? "" },
  ], { tall: true, label: "what it did" });
  rest.append(card("What it did", "the last 200 rounds, newest first", null, rounds.element));

  const look = paced(async () => {
    const [all, { history }] = await Promise.all([get(of(run, "nodes.json")), get(of(run, `node?name=${encodeURIComponent(which)}`))]);
    const row = all.find((one) => one.name === which);
    if (!row) { figures.replaceChildren(empty("No such node", "It has not said who it is in this run.")); return; }
    head.replaceChildren(h("h2", { class: "title" }, h("bdi", { title: which }, which.length > 80 ? `${which.slice(0, 80)}…` : which)), badge(row.state), h("span", { class: "sub" }, row.reason));
    figures.replaceChildren(stats([["Up", format.rate(row.uplink_bps)], ["Down", format.rate(row.downlink_bps)], ["Round trip", format.seconds(row.rtt_s), `± ${format.seconds(row.jitter_s)}`], ["Packets lost", format.share(row.loss_rate)], ["Quality", format.share(row.quality)], ["At work", format.share(row.utilisation)], ["Success", format.share(row.success_rate), `of ${format.count(row.tries)}`], ["Earned", format.money(row.wei), format.amount(row.rounds_paid, "round")]]),
      h("section", { class: "card" }, h("div", { class: "body" }, h("p"), h("dl", { class: "kv" }, h("dt", {}, "Address"), h("dd", { class: "mono" }, row.address || "–"), h("dt", {}, "Device"), h("dd", {}, row.device || "–"), h("dt", {}, "Now"), h("dd", {}, row.phase), h("dt", {}, "Why it is paid"), h("dd", {}, "For what its updates brought the model so far, faded by a tenth a round; the Ledger shows every score.")))));
    const xs = [...new Set(history.map((one) => one.round))], by = new Map(history.map((one) => [one.round, one])), pick = (key) => xs.map((r) => by.get(r)[key] ?? null);
    parts.draw([xs, pick("download_s"), pick("compute_s"), pick("upload_s"), pick("total_s")]);
    weight.draw([xs, pick("weight")]);
    rounds.draw([...history].reverse().map((one) => ({ ...one, key: `${one.round} ${one.attempt}` })));
  });
  return { element, entered: look.now, update: look.now, leave: look.stop };
}
