// Figures as a person reads them: 30.2 Mbit/s, 0.006 MON, 12 s.

const SUFFICES = ["", "k", "M", "G", "T"];

function short(value) {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return Number(value.toFixed(digits)).toString();
}

function scaled(value, unit) {
  let step = 0;
  while (Math.abs(value) >= 999.5 && step < SUFFICES.length - 1) { value /= 1000; step += 1; }
  return `${short(value)} ${SUFFICES[step]}${unit}`;
}

const known = (value) => value !== null && value !== undefined;

export const bytes = (value) => (known(value) ? scaled(value, "B") : "–");
export const rate = (value) => (known(value) ? scaled(value, "bit/s") : "–");
export const share = (value) => (known(value) ? `${short(100 * value)} %` : "–");
export const count = (value) => (known(value) ? value.toLocaleString("en") : "–");
export const amount = (value, thing) => `${count(value)} ${thing}${value === 1 ? "" : "s"}`;

export function number(value) {
  if (!known(value)) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  return Number(value.toPrecision(4)).toString();
}

const STEPS = [[86400, "d"], [3600, "h"], [60, "min"]];

// An estimate, in whole units: 7 min.
export function left(value) {
  for (const [length, unit] of STEPS) if (value >= 2 * length) return `${Math.round(value / length)} ${unit}`;
  return `${Math.round(value)} s`;
}

export function seconds(value) {
  if (!known(value)) return "–";
  for (const [length, unit] of STEPS) if (value >= 2 * length) return `${short(value / length)} ${unit}`;
  if (value >= 1) return `${short(value)} s`;
  if (value >= 1e-3) return `${short(value * 1e3)} ms`;
  return value > 0 ? `${short(value * 1e6)} µs` : "0 s";
}

export function money(wei, currency = "MON") {
  if (!known(wei)) return "–";
  const coins = Number(BigInt(wei)) / 1e18;
  if (coins === 0) return `0 ${currency}`;
  const digits = Math.max(0, Math.min(18, 2 - Math.floor(Math.log10(coins))));
  return `${coins >= 100 ? Math.round(coins).toLocaleString("en") : Number(coins.toFixed(digits)).toLocaleString("en", { maximumFractionDigits: 18 })} ${currency}`;
}

export function ago(epochS) {
  return known(epochS) ? `${seconds(Math.max(0, Date.now() / 1000 - epochS))} ago` : "–";
}

export const hash = (value, ends = 6) => (value ? `${value.slice(0, ends + 2)}…${value.slice(-4)}` : "–");
