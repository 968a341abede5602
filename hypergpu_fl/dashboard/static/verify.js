// A sealed round recomputed from its leaves, as the contract and `hypergpu ledger verify` do it.
// Signatures, and the head that the chain holds, are left to `hypergpu ledger verify --rpc`.

import { keccak } from "./keccak.js";
import { sha256 } from "./sha256.js";

const EMPTY = `0x${"00".repeat(32)}`;

export function unhex(text) {
  if (!/^0x([0-9a-f]{2})*$/i.test(text)) throw new Error(`not hex: ${String(text).slice(0, 80)}`);
  return Uint8Array.from(text.slice(2).match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export const hex = (bytes) => `0x${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;

// A negative number is its two's complement, as the contract encodes it.
const word = (value) => unhex(`0x${BigInt.asUintN(256, BigInt(value)).toString(16).padStart(64, "0")}`);
const hash = (text) => sized(unhex(text), 32);
const address = (text) => word(BigInt(hex(sized(unhex(text), 20))));

function sized(bytes, length) {
  if (bytes.length !== length) throw new Error(`${bytes.length} bytes where ${length} belong`);
  return bytes;
}

function joined(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) { all.set(part, place); place += part.length; }
  return all;
}

const twice = (bytes) => keccak(keccak(bytes));
const parent = (a, b) => (hex(a) < hex(b) ? keccak(joined(a, b)) : keccak(joined(b, a)));

export function leafOf(session, entry) {
  return twice(joined(hash(session), word(entry.round), word(entry.index), address(entry.node), hash(entry.base_model), hash(entry.update_hash), word(entry.examples), hash(entry.metrics_hash), word(entry.weight), word(entry.score), word(entry.reward)));
}

export function rootOf(leaves) {
  if (!leaves.length) return EMPTY;
  const sorted = [...leaves].sort((a, b) => (hex(a) < hex(b) ? -1 : 1));
  const nodes = new Array(2 * sorted.length - 1);
  sorted.forEach((leaf, rank) => { nodes[nodes.length - 1 - rank] = leaf; });
  for (let i = sorted.length - 2; i >= 0; i -= 1) nodes[i] = parent(nodes[2 * i + 1], nodes[2 * i + 2]);
  return hex(nodes[0]);
}

// Leaf of how the round was priced: it is made of four words, so no other kind of leaf can pass for it.
function pricingLeaf(session, round, { scoring, loss_before, loss_after, movements, contributions }) {
  const record = { scoring, loss_before, loss_after, movements, contributions: contributions.map(({ value, work }) => ({ value, work })) };
  const digest = sha256(new TextEncoder().encode(JSON.stringify(record)));
  return twice(joined(hash(session), word(round), digest, word(1)));
}

// Sum tree of what the round grants: a node binds both children and both sums, so no tree can grant more than its top.
export function rewardsRootOf(session, earned) {
  const build = (leaves, depth) => {
    if (!leaves.length) return [hash(EMPTY), 0n];
    if (leaves.length === 1) return [twice(joined(hash(session), address(leaves[0][0]), word(leaves[0][1]))), leaves[0][1]];
    const [left, right] = [0n, 1n].map((bit) => build(leaves.filter(([account]) => ((BigInt(account) >> BigInt(depth)) & 1n) === bit), depth + 1));
    return [keccak(joined(left[0], word(left[1]), right[0], word(right[1]))), left[1] + right[1]];
  };
  return hex(build([...earned], 0)[0]);
}

// Everything that does not hold, in words; empty if all holds.
export function faultsOf(sealed) {
  const faults = [], leaves = [], earned = new Map();
  try {
    sealed.contributions.forEach((entry, place) => {
      const leaf = leafOf(sealed.session, entry);
      leaves.push(leaf);
      if (entry.index !== place) faults.push(`leaf ${place} says that it is leaf ${entry.index}`);
      if (hex(leaf) !== entry.leaf) faults.push(`leaf ${place}: its fields hash to ${hex(leaf)}`);
      if (hex(entry.proof.reduce((node, sibling) => parent(node, hash(sibling)), leaf)) !== sealed.root) faults.push(`leaf ${place}: its proof does not lead to the root`);
      if (BigInt(entry.reward)) earned.set(entry.node, (earned.get(entry.node) ?? 0n) + BigInt(entry.reward));
    });
    if (sealed.log_head) leaves.push(twice(joined(hash(sealed.session), word(sealed.round), hash(sealed.log_head))));
    if (sealed.pricing) leaves.push(pricingLeaf(sealed.session, sealed.round, sealed.pricing));
    if (rootOf(leaves) !== sealed.root) faults.push("the root is not that of these leaves");
    if (rewardsRootOf(sealed.session, earned) !== sealed.rewards_root) faults.push("the root of the rewards is not that of what the leaves grant");
    const head = keccak(joined(hash(sealed.before), word(sealed.round), hash(sealed.root), hash(sealed.model), hash(sealed.rewards_root), word(sealed.owed)));
    if (hex(head) !== sealed.head) faults.push("the head does not follow from the one before");
  } catch (error) {
    faults.push(error.message);
  }
  return faults;
}
