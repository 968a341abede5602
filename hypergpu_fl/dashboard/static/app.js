// The page: where it is, which run it follows, and what draws it.

import { badge, empty, h } from "./dom.js";
import { recolour } from "./charts.js";
import { compare, runs } from "./views/runs.js";
import { training } from "./views/training.js";
import { node, nodes } from "./views/nodes.js";
import { ledger } from "./views/ledger.js";
import { events } from "./views/events.js";
import { travel } from "./views/travel.js";

const VIEWS = { training, nodes, ledger, events, travel };
const TITLES = { training: "Training", nodes: "Nodes", ledger: "Ledger", events: "Events", travel: "Time travel" };
const main = document.getElementById("main"), tabs = document.getElementById("tabs"), crumb = document.getElementById("crumb"), link = document.getElementById("link");
let view = null, stream = null, following = "", state = { name: "", run: null, rounds: [] }, byRound = new Map();

function linked(kind, text) {
  link.className = `link ${kind}`;
  link.textContent = text;
}

// Rounds are kept by number, since a connection that comes back sends all of them again.
function follow(name) {
  if (following === name) return;
  stream?.close();
  following = name;
  byRound = new Map();
  state = { name, run: null, rounds: [] };
  if (!name) return linked("", "");
  stream = new EventSource(`api/runs/${encodeURIComponent(name)}/stream`);
  linked("", "connecting");
  stream.addEventListener("open", () => linked("live", "live"));
  stream.addEventListener("error", () => (stream.readyState === EventSource.CLOSED ? linked("lost", "refused: reload the page") : linked("lost", "reconnecting")));
  stream.addEventListener("gone", (event) => { stream.close(); linked("lost", JSON.parse(event.data).cause ?? "this run is gone"); });
  stream.addEventListener("rounds", (event) => {
    const { all, rows } = JSON.parse(event.data);
    if (all) byRound = new Map();
    for (const row of rows) byRound.set(row.round, row);
    state.rounds = [...byRound.values()].sort((a, b) => a.round - b.round);
    refresh();
  });
  stream.addEventListener("run", (event) => {
    state.run = JSON.parse(event.data);
    refresh();
  });
}

function refresh() {
  if (!state.run) return;
  crumb.replaceChildren(h("b", {}, state.run.run), "  ", badge(state.run.state));
  view?.update?.(state);
}

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [first, ...rest] = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  view?.leave?.();
  view = null;
  main.replaceChildren();
  if (first === "run" && rest[0]) {
    const [name, tab = "training", detail] = rest;
    const there = state.name === name;
    follow(name);
    if (!there) crumb.replaceChildren(h("b", {}, name));
    tabs.hidden = false;
    tabs.replaceChildren(...Object.keys(VIEWS).map((key) => h("a", { href: `#/run/${encodeURIComponent(name)}/${key}`, "aria-current": key === tab || (tab === "node" && key === "nodes") ? "page" : null }, TITLES[key])));
    document.title = `${name} · ${TITLES[tab] ?? "Node"} · HyperGPU`;
    view = tab === "node" ? node(name, detail ?? "") : (VIEWS[tab] ?? training)(name, new URLSearchParams(query));
  } else {
    follow("");
    tabs.hidden = true;
    crumb.replaceChildren(first === "compare" ? "Compare" : "");
    document.title = first === "compare" ? "Compare · HyperGPU" : "HyperGPU";
    view = first === "compare" ? compare(new URLSearchParams(query)) : runs();
  }
  main.append(h("h1", { class: "sr" }, document.title), view.element);
  view.entered?.();
  refresh();
}

const SCHEMES = ["auto", "light", "dark"];
const theme = document.getElementById("theme");
function dress(scheme) {
  scheme === "auto" ? document.documentElement.removeAttribute("data-theme") : document.documentElement.setAttribute("data-theme", scheme);
  theme.textContent = scheme[0].toUpperCase() + scheme.slice(1);
  theme.setAttribute("aria-label", `${theme.textContent}: colours ${scheme === "auto" ? "as the system's" : "of this page"}`);
  recolour();
}
let scheme = SCHEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto";
theme.addEventListener("click", () => {
  scheme = SCHEMES[(SCHEMES.indexOf(scheme) + 1) % SCHEMES.length];
  localStorage.setItem("theme", scheme);
  dress(scheme);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
dress(scheme);

addEventListener("hashchange", () => { route(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
main.append(empty("Loading", ""));
route();
