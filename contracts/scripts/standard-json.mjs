// The compiler settings, once: for the shipped artifact and for forge alike.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const source = "src/HyperGPULedger.sol";
const read = (path) => readFileSync(path, "utf8");

export function compile() {
  const solc = require("solc");
  const input = {
    language: "Solidity",
    sources: { [source]: { content: read(join(root, source)) } },
    settings: {
      evmVersion: "paris", // runs on every EVM: no PUSH0, no transient storage
      optimizer: { enabled: true, runs: 10_000 },
      metadata: { bytecodeHash: "none", appendCBOR: false }, // bytecode depends on nothing but the code
      outputSelection: { "*": { HyperGPULedger: ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
  };
  const find = (path) => ({ contents: read(join(root, "node_modules", path)) });
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: find }));
  const errors = (output.errors ?? []).map((e) => e.formattedMessage);
  if (errors.length > 0) throw new Error(errors.join("\n"));
  const { abi, evm } = output.contracts[source].HyperGPULedger;
  return {
    contract: "HyperGPULedger",
    compiler: solc.version(),
    settings: input.settings,
    bytecode: "0x" + evm.bytecode.object,
    deployedBytecode: "0x" + evm.deployedBytecode.object,
    abi,
  };
}
