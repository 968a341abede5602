import { get, of } from "../api.js";
import { badge, card, empty, h, name, stats, table } from "../dom.js";
import * as format from "../format.js";
import { faultsOf } from "../verify.js";

export function ledger(run) {
  const verdicts = new Map();
  let names = new Map(), latest = null, chain = { explorer: null }, opened = 0;
  const all = h("button", { type: "button", hidden: true, onclick: () => verifyAll() }, "Verify all");
  const figures = h("div"), detail = h("div");
  const rounds = table([
    { title: "Round", key: "round", n: true, sort: (row) => row.round, cell: (row) => format.count(row.round) },
    { title: "Root", mono: true, cell: (row) => h("span", { title: row.root }, format.hash(row.root)) },
    { title: "Transaction", mono: true, cell: (row) => (row.tx && row.explorer ? h("a", { href: `${row.explorer}/tx/${row.tx}`, rel: "noopener noreferrer" }, format.hash(row.tx)) : h("span", { title: row.tx }, format.hash(row.tx))) },
    { title: "Block", n: true, cell: (row) => format.count(row.block) },
    { title: "On chain", cell: (row) => badge(row.status, row.status.toLowerCase()) },
    { title: "In this browser", cell: (row) => (row.verdict === undefined ? h("span", { class: "dim" }, "not yet verified") : row.verdict === "" ? badge("sound", "verified") : badge("excluded", row.verdict)) },
    { title: "", cell: (row) => h("button", { type: "button", "aria-label": `leaves of round ${row.round}`, onclick: () => open(row.round) }, "Leaves") },
  ], { tall: true, label: "sealed rounds", sort: { key: "round", down: true } });
  const none = h("div");
  const list = card("Sealed rounds", "recomputed here from every leaf and its proof; signatures and the chain: hypergpu ledger verify", all, rounds.element, none);
  const pay = table([
    { title: "Node", cell: (row) => name(row.name) }, { title: "Address", mono: true, cell: (row) => h("span", { title: row.address }, format.hash(row.address)) },
    { title: "Paid rounds", n: true, cell: (row) => format.count(row.rounds_paid) }, { title: "Share", n: true, cell: (row) => format.share(row.part) }, { title: "Earned", key: "wei", n: true, sort: (row) => Number(row.wei), cell: (row) => format.money(row.wei) },
  ], { label: "pay", sort: { key: "wei", down: true } });
  const payCard = card("Pay", "what each node earned so far", null, pay.element);
  const element = h("div", {}, figures, list, detail, payCard);

  async function verify(number) {
    const sealed = await get(of(run, `sealed/${number}`));
    chain = sealed;
    const row = latest.rounds.find((one) => one.round === number);
    const faults = faultsOf(sealed);
    if (row?.root && sealed.root !== row.root) faults.push("the root is not the one that was listed");
    verdicts.set(number, faults.join("; "));
    return { sealed, faults };
  }

  async function verifyAll() {
    all.disabled = true;
    let head = null;
    for (const row of latest.rounds.filter((one) => one.root)) {
      try {
        const { sealed, faults } = await verify(row.round);
        if (head && head !== sealed.before) verdicts.set(row.round, [...faults, "its head does not follow the round before"].join("; "));
        head = sealed.head;
      } catch (error) {
        verdicts.set(row.round, `cannot be verified: ${error.message}`);
        head = null;
      }
      draw();
    }
    all.disabled = false;
  }

  async function open(number) {
    opened = number;
    let found;
    try { found = await verify(number); } catch (error) { if (opened === number) detail.replaceChildren(card(`Leaves of round ${number}`, null, null, empty("They cannot be shown", error.message))); return; }
    if (opened !== number) return;
    const { sealed, faults } = found;
    draw();
    const leaves = table([
      { title: "Leaf", n: true, cell: (row) => row.index }, { title: "Node", cell: (row) => name(names.get(row.node) ?? row.node) }, { title: "Worked in", n: true, cell: (row) => format.count(row.round) },
      { title: "Examples", n: true, cell: (row) => format.count(row.examples) }, { title: "Weight", n: true, cell: (row) => format.share(row.weight / 1e9) }, { title: "Score", n: true, cell: (row) => format.count(Number(row.score)) },
      { title: "Reward", n: true, cell: (row) => format.money(row.reward) }, { title: "Why", wrap: true, cell: (row) => why(row) }, { title: "Hash", mono: true, cell: (row) => h("span", { title: row.leaf }, format.hash(row.leaf)) },
    ], { label: `leaves of round ${number}` });
    leaves.draw(sealed.contributions.map((row) => ({ ...row, key: row.index })));
    detail.replaceChildren(card(`Leaves of round ${number}`, `head ${format.hash(sealed.head)}`, faults.length ? badge("excluded", faults[0]) : badge("sound", "verified"), leaves.element, sealed.contributions.length ? "" : empty("No leaf", "No update counted in this round.")));
    detail.scrollIntoView({ block: "nearest" });
  }

  function why(row) {
    if (row.duplicate_of) return `nearly the same update as ${names.get(row.duplicate_of) ?? row.duplicate_of}`;
    const score = BigInt(row.score);
    if (score < 0n) return "set the model back; counts against what it brought and brings";
    if (!score) return "brought the model nothing";
    return BigInt(row.reward) ? "brought the model forward" : "brought the model forward, but is not ahead of what it set back";
  }

  function draw() {
    const sealed = latest.rounds.filter((row) => row.root);
    none.replaceChildren(sealed.length ? "" : empty("Nothing is sealed yet", "A round appears here once it is closed and in the books."));
    rounds.element.hidden = all.hidden = !sealed.length;
    rounds.draw(sealed.slice(-500).map((row) => ({ key: row.round, round: row.round, root: row.root, tx: row.tx, block: row.block, status: row.status, verdict: verdicts.get(row.round), explorer: chain.explorer })));
  }

  async function update(state) {
    latest = state;
    const session = state.run.session, sealed = state.rounds.filter((row) => row.root);
    figures.replaceChildren(stats([["Sealed", format.count(sealed.length), `of ${format.amount(state.rounds.length, "round")}`], ["Final on chain", format.count(sealed.filter((row) => row.status === "FINALIZED").length)], ["Earned", format.money(state.run.earned_wei)], ["Budget a round", session ? format.money(session.budget) : "–"], ["Chain", session ? String(session.chain_id) : "–", session?.simulated_keys ? "simulated keys" : ""], ["Contract", session ? format.hash(session.contract) : "–"]]));
    draw();
    const rows = await get(of(run, "nodes.json")).catch(() => []);
    names = new Map(rows.map((row) => [row.address, row.name]));
    const total = rows.reduce((sum, row) => sum + Number(row.wei), 0);
    payCard.hidden = !total;
    pay.draw(rows.map((row) => ({ key: row.name, name: row.name, address: row.address, rounds_paid: row.rounds_paid, wei: row.wei, part: total ? Number(row.wei) / total : null })));
    const last = sealed[sealed.length - 1];
    if (last && !verdicts.has(last.round)) { await verify(last.round).catch(() => {}); draw(); }
  }
  let pending = false;
  return { element, update: (state) => { latest = state; if (pending) return; pending = true; update(state).finally(() => setTimeout(() => { pending = false; }, 800)); } };
}
