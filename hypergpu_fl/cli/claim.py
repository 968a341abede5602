"""``hypergpu claim``: a node is paid what it earned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypergpu_fl.cli.ledger import Rpc
from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import UsageError

if TYPE_CHECKING:
    from hypergpu_fl.chain.http import HttpChain

app = typer.Typer(help="Claim a node's rewards on chain.")


@app.command()
def claim(
    key: Annotated[Path, typer.Option("--key", help="keystore of who sends the claim and pays its gas")],
    run: Run = "latest",
    account: Annotated[str, typer.Option("--account", help="who is paid; the key's own address if left out")] = "",
    receipt: Annotated[Path | None, typer.Option("--receipt", help="a node's receipt instead of RUN's books")] = None,
    rpc: Rpc = "",
    max_fee_gwei: Annotated[float, typer.Option("--max-fee-gwei", help="most that a gas may cost")] = 500.0,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Claim what an account earned up to the last committed round. A grant does not lapse: claim when you like."""
    from hypergpu_fl.chain.signer import KeySigner
    from hypergpu_fl.cli.keys import password_of
    from hypergpu_fl.settlement import claim as send_claim
    from hypergpu_fl.settlement import verify

    max_fee = int(max_fee_gwei * 10**9)
    if receipt is not None:
        render(_claim_receipt(receipt, key, rpc, max_fee), format)
        return
    bundle = books_of(run, runs)
    chain_id = bundle.session.chain_id
    client = _client(rpc, chain_id)
    verify(bundle)
    signer = KeySigner.from_keystore(key, password_of(key))
    done = send_claim(bundle, client, signer, account or signer.address, max_fee=max_fee)
    hashes = ["0x" + sent.tx_hash.hex() for sent in done.sent]
    row = {
        "account": done.account,
        "paid_wei": str(done.amount),
        "cumulative_wei": str(done.cumulative),
        "rounds_paid": len(done.rounds),
        "tx": hashes[-1],
        "block": done.sent[-1].receipt.block,
    }
    if len(hashes) > 1:
        row["earlier_tx"] = hashes[:-1]
    render(row | _link(chain_id, hashes[-1]), format)


def _claim_receipt(file: Path, key: Path, rpc: str, max_fee: int) -> dict[str, Any]:
    """Claim what one round granted, from a receipt alone."""
    from hypergpu_fl.chain.signer import KeySigner
    from hypergpu_fl.cli.keys import password_of
    from hypergpu_fl.ledger.bundle import read_file
    from hypergpu_fl.ledger.fields import parse
    from hypergpu_fl.ledger.proof import ContributionProof
    from hypergpu_fl.settlement.receipt_claim import claim_receipt

    receipt = parse(ContributionProof, read_file(file), "the receipt")
    client = _client(rpc, receipt.chain_id)
    sent = claim_receipt(receipt, client, KeySigner.from_keystore(key, password_of(key)), max_fee=max_fee)
    tx, paid = "0x" + sent.tx_hash.hex(), receipt.grant.amount if receipt.grant else 0
    row = {"account": receipt.value[3], "paid_wei": str(paid), "tx": tx, "block": sent.receipt.block}
    return row | _link(receipt.chain_id, tx)


def _client(rpc: str, chain_id: int) -> HttpChain:
    """Client of a session's chain."""
    from hypergpu_fl.chain.embedded import CHAIN_ID
    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.chain.presets import preset_of
    from hypergpu_fl.settlement.opening import rpc_urls

    if chain_id in (0, CHAIN_ID):
        raise UsageError(
            "this run was settled on no chain that outlives it, so nothing can be claimed",
            "run with blockchain.kind = rpc to earn what can be claimed",
        )
    preset = preset_of(chain_id)
    urls = rpc_urls(rpc) or list(preset.rpc_urls if preset else ())
    if not urls:
        raise UsageError(f"no RPC address is known for chain {chain_id}", "give --rpc URL")
    return HttpChain(urls, chain_id=chain_id)


def _link(chain_id: int, tx: str) -> dict[str, Any]:
    from hypergpu_fl.chain.presets import preset_of

    preset = preset_of(chain_id)
    return {"link": preset.transaction_link(tx)} if preset else {}
