// Oracle for the tests: OpenZeppelin's own trees.
// In, on stdin: [{types, values, indices}], answered by {root, proofs of these indices};
// or [{types, values, proofs, root}], answered by whether each proof holds.
import { readFileSync } from "node:fs";
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

const answers = JSON.parse(readFileSync(0, "utf8")).map(({ types, values, indices, proofs, root }) => {
  if (proofs) return values.map((value, i) => StandardMerkleTree.verify(root, types, value, proofs[i]));
  const tree = StandardMerkleTree.of(values, types);
  return { root: tree.root, proofs: indices.map((i) => tree.getProof(i)) };
});
process.stdout.write(JSON.stringify(answers));
