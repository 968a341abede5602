"""``hypergpu claim``: a node is paid what it earned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypergpu_fl.cli.ledger import Rpc
from hypergpu_fl.cli.names import address_of, names_in
from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import UsageError

app = typer.Typer(help="Claim a node's rewards on chain.")


@app.command()
def claim(
    key: Annotated[Path, typer.Option("--key", help="keystore of who sends the claim and pays its gas")],
    run: Run = "latest",
    account: Annotated[
        str, typer.Option("--account", help="who is paid, by name or address; the key's own if left out")
    ] = "",
    rpc: Rpc = "",
    max_fee_gwei: Annotated[float, typer.Option("--max-fee-gwei", help="most that a gas may cost")] = 500.0,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Claim what an account earned up to the last committed round.

    Example: hypergpu claim demo --key keystore.json --account node-3
    """
    from hypergpu_fl.chain.embedded import CHAIN_ID
    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.chain.presets import preset_of
    from hypergpu_fl.chain.signer import KeySigner
    from hypergpu_fl.cli.keys import password_of
    from hypergpu_fl.settlement import claim as send_claim
    from hypergpu_fl.settlement import verify
    from hypergpu_fl.settlement.opening import rpc_urls

    bundle = books_of(run, runs)
    chain_id = bundle.session.chain_id
    if chain_id in (0, CHAIN_ID):
        raise UsageError(
            "this run was settled on no chain that outlives it, so nothing can be claimed",
            "run with blockchain.kind = rpc to earn what can be claimed",
        )
    preset = preset_of(chain_id)
    urls = rpc_urls(rpc) or list(preset.rpc_urls if preset else ())
    if not urls:
        raise UsageError(f"no RPC address is known for chain {chain_id}", "give --rpc URL")
    payee = address_of(account, names_in(run, runs)) if account else ""
    verify(bundle)
    signer = KeySigner.from_keystore(key, password_of(key))
    client = HttpChain(urls, chain_id=chain_id)
    done = send_claim(bundle, client, signer, payee or signer.address, max_fee=int(max_fee_gwei * 10**9))
    tx = "0x" + done.sent.tx_hash.hex()
    row = {
        "account": done.account,
        "paid_wei": str(done.amount),
        "cumulative_wei": str(done.cumulative),
        "tx": tx,
        "block": done.sent.receipt.block,
    }
    if preset is not None:
        row["link"] = preset.transaction_link(tx)
    render(row, format)
