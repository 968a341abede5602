// Compiles the contract into the artifact that ships with the Python package; `-` prints it instead.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "./standard-json.mjs";

const text = JSON.stringify(compile(), null, 1) + "\n";
if (process.argv[2] === "-") {
  process.stdout.write(text);
} else {
  const folder = join(dirname(fileURLToPath(import.meta.url)), "../../hypergpu_fl/chain/abi");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "HyperGPULedger.json"), text);
}
