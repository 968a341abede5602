"""``hypergpu ledger``: the books of a run, their verification, and proofs from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypergpu_fl.cli.audit import audit
from hypergpu_fl.cli.names import address_of, names_in
from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_of, place_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.cli.verify import Rpc, verify
from hypergpu_fl.errors import LedgerError
from strategies.prose import amount

__all__ = ["Rpc", "app"]

if TYPE_CHECKING:
    from hypergpu_fl.ledger.bundle import RoundRecord, SessionRecord

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, show, verify, prove and export the books of a run."
)


@app.command(name="list")
def list_(run: Run = "latest", runs: Runs = None, format: FormatOption = Format.DEFAULT) -> None:
    """List the sealed rounds with their roots and transactions.

    Example: hypergpu ledger list demo
    """
    bundle = books_of(run, runs)
    render([_round_row(record, bundle.session) for record in bundle.rounds], format)


@app.command()
def show(
    run: Run = "latest",
    round: Annotated[int | None, typer.Option("--round", help="the round; the last one if left out")] = None,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Show one round: who contributed what, at which weight, value, score and reward, and who was refused.

    Example: hypergpu ledger show demo --round 3
    """
    bundle = books_of(run, runs)
    round = len(bundle.rounds) if round is None else round
    if not 1 <= round <= len(bundle.rounds):
        raise LedgerError(f"there is no round {round}", f"rounds go from 1 to {len(bundle.rounds)}")
    record = bundle.rounds[round - 1]
    if format is Format.JSON:
        render({"session": bundle.session.model_dump(mode="json")} | record.model_dump(mode="json"), format)
        return
    render({"session": "0x" + bundle.session.id.hex()} | _round_row(record, bundle.session), format)
    names = names_in(run, runs)
    priced = [price.value for price in record.pricing.contributions] if record.pricing else []
    rows = [
        {
            "name": names.get(entry.node),
            "node": entry.node,
            "made for": entry.round,
            "examples": entry.examples,
            "weight": entry.weight / 10**9,
            "value": priced[entry.index] if priced else None,
            "score": entry.score,
            "reward (wei)": entry.reward,
            "nearly equals": names.get(entry.duplicate_of, entry.duplicate_of) or None,
        }
        for entry in record.contributions
    ]
    rows += [{"name": refusal.node, "refused": f"{refusal.reason} {refusal.detail}"} for refusal in record.refused]
    render(rows, format)


app.command()(verify)
app.command()(audit)


@app.command()
def proof(
    node: Annotated[str, typer.Option("--node", help="name or address of the node")],
    round: Annotated[int, typer.Option("--round", help="round that sealed its contribution")],
    run: Run = "latest",
    runs: Runs = None,
) -> None:
    """Print the JSON proof of a sealed contribution, for the contract and for @openzeppelin/merkle-tree.

    Example: hypergpu ledger proof demo --node node-3 --round 3
    """
    from hypergpu_fl.ledger.proof import proof_from_bundle

    address = address_of(node, names_in(run, runs))
    found = proof_from_bundle(books_of(run, runs), node=address, round=round, name=node)
    typer.echo(found.model_dump_json(indent=2))


@app.command()
def export(
    run: Run = "latest",
    out: Annotated[Path | None, typer.Option("--out", help="file to write; ledger.json in the run's folder")] = None,
    keystore: Annotated[str, typer.Option("--keystore", help="the coordinator's keystore file")] = "",
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Write the run database's books as ``ledger.json``, signed where the coordinator's key is at hand.

    That is the run's own key, the key in HYPERGPU_COORDINATOR_KEY, or --keystore. Without it the file is signed only if
    nothing has changed since the run ended.

    Example: hypergpu ledger export demo --out books.json
    """
    from hypergpu_fl.config import Blockchain, read_secrets
    from hypergpu_fl.settlement import BUNDLE, export_books

    folder = place_of(run, runs)
    path = out or folder / BUNDLE
    bundle = export_books(folder, path, Blockchain(keystore=keystore), read_secrets())
    if format is Format.JSON:
        ended = bundle.seal is not None and bundle.seal.ended
        typer.echo(json.dumps({"file": str(path), "rounds": len(bundle.rounds), "ended": ended}))
    else:
        signed = "signed" if bundle.seal else "not signed: the coordinator's key is not at hand"
        typer.echo(f"{path}: {amount(len(bundle.rounds), 'round')}, {signed}")


def _round_row(record: RoundRecord, session: SessionRecord) -> dict[str, Any]:
    commit = record.commit
    return {
        "round": record.round,
        "contributions": len(record.contributions),
        "refused": len(record.refused),
        "root": "0x" + record.root.hex(),
        "owed so far (wei)": record.owed,
        "tx": "0x" + commit.hash.hex() if commit else None,
        "block": commit.block if commit else None,
        "status": commit.state if commit else "PREPARED" if session.chain_id else "no chain",
    }
