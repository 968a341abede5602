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

app = typer.Typer(add_completion=False, help="Claim a node's rewards on chain.")


@app.command()
def claim(
    key: Annotated[Path, typer.Option("--key", help="keystore of who sends the claim and pays its gas")],
    run: Run = "latest",
    account: Annotated[
        str, typer.Option("--account", help="who is paid, by name or address; the key's own if left out")
    ] = "",
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="a node's receipt, or a folder of them, instead of RUN's books")
    ] = None,
    rpc: Rpc = "",
    max_fee_gwei: Annotated[float, typer.Option("--max-fee-gwei", help="most that a gas may cost")] = 500.0,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Claim what an account earned up to the last committed round. A grant does not lapse: claim when you like.

    Example: hypergpu claim demo --key keystore.json --account node-3
    """
    from hypergpu_fl.chain.embedded import CHAIN_ID
    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.chain.presets import preset_of
    from hypergpu_fl.chain.signer import KeySigner
    from hypergpu_fl.cli.keys import password_of
    from hypergpu_fl.ledger.receipts import read_receipts
    from hypergpu_fl.settlement import claim as claim_with_bundle
    from hypergpu_fl.settlement import claim_with_receipts, verify
    from hypergpu_fl.settlement.opening import rpc_urls

    held = read_receipts(receipt) if receipt is not None else None
    bundle = books_of(run, runs) if held is None else None
    chain_id = bundle.session.chain_id if bundle is not None else held[0].chain_id if held else 0
    if chain_id in (0, CHAIN_ID):
        raise UsageError(
            "this run was settled on no chain that outlives it, so nothing can be claimed",
            "run with blockchain.kind = rpc to earn what can be claimed",
        )
    preset = preset_of(chain_id)
    urls = rpc_urls(rpc) or list(preset.rpc_urls if preset else ())
    if not urls:
        raise UsageError(f"no RPC address is known for chain {chain_id}", "give --rpc URL")
    if held and account and account.lower() != held[0].value[3].lower():
        raise UsageError(f"the receipts are of {held[0].value[3]}, not of {account}", "leave out --account")
    payee = address_of(account, names_in(run, runs)) if account and bundle is not None else ""
    if bundle is not None:
        verify(bundle)
    signer, client = KeySigner.from_keystore(key, password_of(key)), HttpChain(urls, chain_id=chain_id)
    max_fee = int(max_fee_gwei * 10**9)
    if bundle is not None:
        done = claim_with_bundle(bundle, client, signer, payee or signer.address, max_fee=max_fee)
    else:
        done = claim_with_receipts(held or [], client, signer, max_fee=max_fee)
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
    if preset is not None:
        row["link"] = preset.transaction_link(hashes[-1])
    render(row, format)
