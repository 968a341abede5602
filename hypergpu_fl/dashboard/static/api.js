// Questions to the server that the page came from.

export async function get(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.cause ?? answer.statusText);
  return content;
}

export const of = (run, path) => `api/runs/${encodeURIComponent(run)}/${path}`;

// Calls `ask` now and, while something changes, at most every `everyMs`; never twice at once.
export function paced(ask, everyMs = 1000) {
  let busy = false, again = false, timer = 0;
  async function now() {
    if (busy) { again = true; return; }
    busy = true;
    try { await ask(); } catch { /* the next change asks again */ }
    timer = setTimeout(() => { busy = false; if (again) { again = false; now(); } }, everyMs);
  }
  return { now, stop: () => clearTimeout(timer) };
}
