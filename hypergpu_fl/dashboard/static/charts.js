// Lines over rounds, time or bytes. uPlot draws on a canvas, so colours are read from the page's style.

import { h } from "./dom.js";
import * as format from "./format.js";

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const alive = new Set();

// Draws charts again in the page's new colours, and forgets charts that are no longer on the page.
export function recolour() {
  for (const chart of [...alive]) chart.element.isConnected ? chart.rebuild() : alive.delete(chart);
}

// What rounds may be drawn over: the axis's label and the format of its values.
export const ACROSS = { rounds: ["round", format.count], seconds: ["time", format.seconds], bytes: ["sent up", format.bytes] };

const last = (values) => [...values].reverse().find((v) => v !== null && v !== undefined);
const said = (v, form) => (v === null || v === undefined ? "–" : form(v));
const WHOLE = [1, 2, 5].flatMap((m) => [...Array(9).keys()].map((e) => m * 10 ** e)).sort((a, b) => a - b);

// `series`: [{label, colour: 1..6, value: format}], `x`: {label, value: format}.
export function chart({ label, series, x, height = 200, value = format.number }) {
  const element = h("div", { class: "chart", role: "img", "aria-label": label });
  let plot = null, data = [[], ...series.map(() => [])];
  const self = { element, rebuild: build };

  function axis(extra) {
    return { stroke: style("--ink-3"), grid: { stroke: style("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", gap: 6, ...extra };
  }

  function build() {
    plot?.destroy();
    plot = new uPlot({
      width: Math.max(120, element.clientWidth), height,
      padding: [8, 8, 0, 0],
      cursor: { y: false, points: { size: 7 } },
      scales: { x: { time: false } },
      legend: { live: true },
      axes: [axis({ values: (_, ticks) => ticks.map(x.value), space: 60, size: 28, ...(x.value === format.count ? { incrs: WHOLE } : {}) }), axis({ values: (_, ticks) => ticks.map(value), size: 62, space: 34, ...(value === format.count ? { incrs: WHOLE } : {}) })],
      series: [{ label: x.label, value: (self, v, i, at) => said(at === null ? last(self.data[0]) : v, x.value) }, ...series.map((one) => ({
        label: one.label, stroke: style(`--series-${one.colour}`), width: 2, spanGaps: true, points: { show: data[0].length < 2, size: 6 },
        value: (self, v, i, at) => said(at === null ? last(self.data[i]) : v, one.value ?? value),
      }))],
    }, data, element);
  }

  function draw(next) {
    const few = data[0].length < 2;
    data = next;
    if (!plot || few !== next[0].length < 2) build();
    else plot.setData(data);
    const ends = series.map((one, i) => `${one.label} ${said(last(next[i + 1]), one.value ?? value)}`);
    element.setAttribute("aria-label", `${label}. ${format.amount(next[0].length, "point")}; last: ${ends.join(", ")}`);
  }

  new ResizeObserver(() => plot && element.clientWidth && plot.setSize({ width: element.clientWidth, height })).observe(element);
  alive.add(self);
  return { element, draw };
}
