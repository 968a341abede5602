"""``hypergpu ledger verify``: verify a ledger, a proof or a receipt, and say what that proves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import place_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import LedgerError, VerificationError
from strategies.prose import amount

if TYPE_CHECKING:
    from pathlib import Path

    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.ledger.bundle import Bundle
    from hypergpu_fl.ledger.proof import ContributionProof

Rpc = Annotated[str, typer.Option("--rpc", help="RPC addresses, comma-separated")]

_COORDINATORS_WORD = (
    "values, scores, weights, refusals, near copies, blocks and gas are the coordinator's word; rewards follow from "
    "the scores; signatures rule out forged contributions, not unfair scores"
)


def verify(
    run: Run = "latest",
    rpc: Rpc = "",
    session: Annotated[str, typer.Option("--session", help="session id that it must be of")] = "",
    coordinator: Annotated[str, typer.Option("--coordinator", help="address that must have opened it")] = "",
    open: Annotated[bool, typer.Option("--open", help="accept books that the coordinator has not closed yet")] = False,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Verify a run's ledger.json and event log, an exported ledger, a proof or a receipt, and say what that proves.

    Without --session or --coordinator a file only has to agree with itself, so a file that somebody made up completely,
    keys included, passes.

    Example: hypergpu ledger verify demo
    """
    from hypergpu_fl.ledger.bundle import FORMAT, Bundle, read_file
    from hypergpu_fl.ledger.fields import parse
    from hypergpu_fl.ledger.proof import PROOF, RECEIPT, ContributionProof
    from hypergpu_fl.settlement import BUNDLE

    place = place_of(run, runs)
    text = read_file(place / BUNDLE if place.is_dir() else place)
    made_as = _format_of(text)
    if made_as.startswith("hypergpu-") and made_as not in (PROOF, RECEIPT, FORMAT):
        raise VerificationError(
            f"{place} is {made_as[:40]!r}; this release verifies {FORMAT}, {PROOF} and {RECEIPT}",
            "verify it with the release that made it",
        )
    if made_as in (PROOF, RECEIPT):
        proof = parse(ContributionProof, text, "the proof")
        _check_pins(proof.value[0], proof.coordinator, session, coordinator)
        result, lines = _of_proof(proof, rpc)
    else:
        bundle = parse(Bundle, text, "the ledger")
        _check_pins(bundle.session.id, bundle.session.coordinator, session, coordinator)
        result, lines = _of_bundle(bundle, rpc, accept_open=open)
        if place.is_dir():
            lines.append(_of_log(bundle, place, result))
    pinned = bool(session or coordinator)
    if not pinned:
        lines.insert(1, "consistent, not pinned: a complete rewrite would pass; pin it with --session or --coordinator")
    if format is Format.JSON:
        render({"valid": True, "pinned": pinned} | result, format)
    else:
        typer.echo("\n".join(lines))


def _format_of(text: bytes) -> str:
    from pydantic_core import from_json  # unlike json, it bounds the nesting, which the file's writer chooses

    try:
        document = from_json(text)
    except ValueError:
        return ""
    return str(document.get("format", "")) if isinstance(document, dict) else ""


def _check_pins(session: bytes, coordinator: str, wanted_session: str, wanted_coordinator: str) -> None:
    for what, found, wanted in (
        ("session", "0x" + session.hex(), wanted_session),
        ("coordinator", coordinator, wanted_coordinator),
    ):
        if wanted and found.lower() != wanted.lower():
            raise VerificationError(f"it is of {what} {found}, not of {wanted}", "take the file from its source again")


def _of_bundle(bundle: Bundle, rpc: str, *, accept_open: bool) -> tuple[dict[str, Any], list[str]]:
    from hypergpu_fl.settlement import UNSEALED, verify_on_chain
    from hypergpu_fl.settlement import verify as verify_bundle

    found = verify_bundle(bundle)
    on_chain = verify_on_chain(bundle, _chain(rpc, bundle.session.chain_id)) if rpc else None
    missing = found.uncommitted if on_chain is None else tuple(range(on_chain + 1, len(bundle.rounds) + 1))
    if missing:
        raise VerificationError(
            f"{_rounds(missing)} not committed, {'says the chain' if rpc else 'say the books'}",
            "export the ledger again when they are",
        )
    if not (found.ended or accept_open):
        raise VerificationError(
            f"the books are open after round {len(bundle.rounds)}: the coordinator has not signed that the run ended",
            "take the file again when it has; give --open to accept a run that goes on",
        )
    contributions = sum(len(record.contributions) for record in bundle.rounds)
    unsealed = [] if found.signed else ["later rounds", *UNSEALED]
    result = {
        "kind": "ledger",
        "session": "0x" + bundle.session.id.hex(),
        "coordinator": bundle.session.coordinator,
        "rounds": len(bundle.rounds),
        "contributions": contributions,
        "signed commits": found.commits,
        "ended": found.ended,
        "head": "0x" + found.head.hex(),
        "unsealed": unsealed,
    } | ({"rounds on chain": on_chain} if rpc else {})
    known = f", {on_chain} of them on chain {bundle.session.chain_id}" if rpc else ""
    lines = [
        f"verified: {amount(len(bundle.rounds), 'round')}{known}, {amount(contributions, 'signed contribution')}, "
        f"{amount(found.commits, 'signed commit')}, {'the end signed' if found.ended else 'still open'}",
        _COORDINATORS_WORD,
    ]
    if unsealed:
        lines.append(f"not sealed: {', '.join(unsealed)}")
    return result, lines


def _of_log(bundle: Bundle, folder: Path, result: dict[str, Any]) -> str:
    """Compare the event log with the heads that the rounds seal, if there are both."""
    from hypergpu_fl.ledger.event_log import heads_of, verify_log
    from strategies.event_log import FILE
    from strategies.round.lines import LONGEST_LINE

    sealed, path = heads_of(bundle.rounds), folder / FILE
    result["rounds in the log"] = None
    if not sealed or not path.is_file():
        return f"{FILE} not compared: {'it is not there' if sealed else 'no round seals its head'}"
    with path.open("rb") as log:
        verify_log(sealed, iter(lambda: log.readline(LONGEST_LINE), b""))
    result["rounds in the log"] = len(sealed)
    return f"{FILE}: found the log's head that each of {amount(len(sealed), 'round')} seals"


def _of_proof(proof: ContributionProof, rpc: str) -> tuple[dict[str, Any], list[str]]:
    from hypergpu_fl.ledger.proof import RECEIPT, verify_proof
    from hypergpu_fl.settlement import verify_proof_on_chain

    verify_proof(proof)
    if rpc:
        verify_proof_on_chain(proof, _chain(rpc, proof.chain_id))
    kind = "receipt" if proof.format == RECEIPT else "proof"
    sealed, last = proof.commitments[0].round, proof.commitments[-1].round
    made_for, node, reward = proof.value[1], proof.value[3], proof.value[10]
    result = {
        "kind": kind,
        "session": "0x" + proof.value[0].hex(),
        "coordinator": proof.coordinator,
        "node": node,
        "made for round": made_for,
        "sealed in round": sealed,
        "reward_wei": str(reward),
        "granted_wei": str(proof.grant.amount if proof.grant else 0),
        "head": "0x" + proof.head.hex(),
        "head after round": last,
        "on chain": bool(rpc),
    }
    head = f"head 0x{proof.head.hex()} after round {last}"
    if rpc:
        head += f", which chain {proof.chain_id} holds"
    elif kind == "receipt":
        head += ", which the coordinator signed"
    else:
        head += "; whether the chain holds that head, --rpc tells"
    line = (
        f"verified {kind}: {node} signed its work for round {made_for}, round {sealed} sealed it for {reward} wei, "
        f"and that leads to {head}"
    )
    return result, [line]


def _chain(rpc: str, chain_id: int) -> HttpChain:
    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.settlement.opening import rpc_urls

    if not chain_id:
        raise LedgerError("the run was settled on no chain", "leave out --rpc")
    return HttpChain(rpc_urls(rpc), chain_id=chain_id)


def _rounds(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:9])) + (", ..." if len(numbers) > 9 else "")
    return f"round {shown} is" if len(numbers) == 1 else f"rounds {shown} are"
