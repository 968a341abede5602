// What each node did in a round: waiting, downloading, training, uploading, on the run's clock.

import { h, name, s } from "../dom.js";
import * as format from "../format.js";

const PARTS = [["download", "downloading"], ["compute", "training"], ["upload", "uploading"]];
const WIDTH = 1000;

export function legend() {
  return h("div", { class: "legend" }, [["wait", "waiting, or not measured"], ...PARTS, ["refused", "refused"]].map(([key, text]) => h("span", {}, s("svg", { width: 10, height: 10, "aria-hidden": "true" }, s("rect", { width: 10, height: 10, rx: 2, class: `p-${key}` })), text)));
}

// One bar: from when its order went out to when its reply came, with its parts where they were measured.
export function bar(work, from_s, to_s) {
  const scale = WIDTH / Math.max(1e-9, to_s - from_s);
  const at = (seconds) => Math.max(0, Math.min(WIDTH, (seconds - from_s) * scale));
  const until = work.arrived_s ?? to_s;
  const rects = [s("rect", { x: at(work.sent_s), width: Math.max(2, at(until) - at(work.sent_s)), height: 12, y: 2, rx: 2, class: work.verdict === "refused" ? "p-refused" : "p-wait" })];
  if (work.arrived_s !== null && work.verdict !== "refused") {
    let begin = work.sent_s + (work.rtt_s ?? 0) / 2;
    for (const [key] of PARTS) {
      const length = work[`${key}_s`];
      if (length === null || length === undefined) continue;
      rects.push(s("rect", { x: at(begin), width: Math.max(1, at(begin + length) - at(begin)), height: 12, y: 2, class: `p-${key}` }));
      begin += length;
    }
  }
  const said = PARTS.filter(([key]) => work[`${key}_s`] !== null && work[`${key}_s`] !== undefined).map(([key, text]) => `${text} ${format.seconds(work[`${key}_s`])}`);
  const text = `${work.verdict}${said.length ? `: ${said.join(", ")}` : ""}`;
  return s("svg", { viewBox: `0 0 ${WIDTH} 16`, preserveAspectRatio: "none", width: "100%", height: 16, role: "img", "aria-label": text }, s("title", {}, text), rects);
}

export function span(round) {
  const ends = round.works.map((work) => work.arrived_s).filter((v) => v !== null);
  const from_s = Math.min(round.started_s, ...round.works.map((work) => work.sent_s));
  return [from_s, round.ended_s ?? Math.max(round.started_s + 1e-3, ...ends)];
}

export const nodeLink = (run, node) => h("a", { href: `#/run/${encodeURIComponent(run)}/node/${encodeURIComponent(node)}` }, name(node));
