"""``hypergpu chain``: deploy the contract, see its state, hand a run over, start a local chain."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypergpu_fl.cli.ledger import Rpc
from hypergpu_fl.cli.options import Run, Runs, root_of
from hypergpu_fl.cli.place import books_of, place_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import UsageError

if TYPE_CHECKING:
    from hypergpu_fl.chain.http import HttpChain

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Deploy the contract, see its state, hand a run over, start a local chain.",
)

Preset = Annotated[str, typer.Option("--preset", help="monad-mainnet or monad-testnet, instead of --rpc")]
MaxFee = Annotated[float, typer.Option("--max-fee-gwei", help="most that a gas may cost")]
Keystore = Annotated[str, typer.Option("--keystore", help="keystore file of who sends it")]


def _client(rpc: str, preset: str, chain_id: int = 0) -> HttpChain:
    """Client of the addresses given, of the preset, or of the known chain with this id, and bound to that id."""
    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.chain.presets import PRESETS, preset_of
    from hypergpu_fl.settlement.opening import rpc_urls

    if preset and preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}", f"the presets are {', '.join(PRESETS)}")
    known = PRESETS[preset] if preset else preset_of(chain_id)
    urls = rpc_urls(rpc) or list(known.rpc_urls if known else ())
    if not urls:
        raise UsageError("no RPC address is given", "give --rpc URL or --preset NAME")
    return HttpChain(urls, chain_id=known.chain_id if known else chain_id)


@app.command()
def deploy(
    rpc: Rpc = "",
    preset: Preset = "",
    chain_id: Annotated[int, typer.Option("--chain-id", help="the chain to sign for, with --rpc", min=0)] = 0,
    keystore: Keystore = "",
    max_fee_gwei: MaxFee = 500.0,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Deploy the ledger contract; the key comes from --keystore or HYPERGPU_COORDINATOR_KEY.

    Example: hypergpu chain deploy --preset monad-testnet --keystore keystore.json
    """
    from hypergpu_fl.chain import abi
    from hypergpu_fl.chain.direct import send_and_wait
    from hypergpu_fl.chain.lock import KeyLock
    from hypergpu_fl.chain.presets import PRESETS, preset_of
    from hypergpu_fl.chain.progress import check_code
    from hypergpu_fl.chain.signer import created_address
    from hypergpu_fl.config import Blockchain, read_secrets
    from hypergpu_fl.settlement.opening import coordinator_signer

    client = _client(rpc, preset, chain_id)
    chain_id = chain_id or (PRESETS[preset].chain_id if preset else 0)
    if not chain_id:
        raise UsageError("nothing says which chain to sign for", "give --chain-id or --preset")
    signer = coordinator_signer(Blockchain(keystore=keystore), read_secrets())
    with KeyLock(root_of(runs) / ".locks", chain_id, signer.address):
        sent = send_and_wait(
            client, signer, to=None, data=abi.bytecode(), chain_id=chain_id, max_fee=int(max_fee_gwei * 10**9)
        )
    contract, tx = created_address(signer.address, sent.nonce), "0x" + sent.tx_hash.hex()
    check_code(client, contract)
    row: dict[str, Any] = {
        "chain_id": chain_id,
        "contract": contract,
        "deployer": signer.address,
        "tx": tx,
        "block": sent.receipt.block,
        "gas_used": sent.receipt.gas_used,
    }
    known = preset_of(chain_id)
    if known is not None:
        row["link"] = known.transaction_link(tx)
    render(row, format)


@app.command()
def status(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="name of a run, or 'latest'; none: only the chain")] = "",
    rpc: Rpc = "",
    preset: Preset = "",
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Show the chain's heights and, for a run, its session: rounds, head, pool, balances.

    Example: hypergpu chain status demo
    """
    bundle = books_of(run, runs) if run else None
    row: dict[str, Any] = {}
    if bundle is not None:
        session = bundle.session
        states = [record.commit.state if record.commit else "PREPARED" for record in bundle.rounds]
        row = {
            "session": "0x" + session.id.hex(),
            "chain_id": session.chain_id,
            "contract": session.contract if session.chain_id else None,  # zeros, where there is no chain
            "coordinator": session.coordinator if session.chain_id else None,
            "rounds": len(bundle.rounds),
        }
        if session.chain_id:
            row["finalized"] = states.count("FINALIZED")
            row["waiting"] = sum(state not in ("INCLUDED", "FINALIZED") for state in states)
    from hypergpu_fl.chain.presets import preset_of

    if bundle is None or rpc or preset or preset_of(bundle.session.chain_id):
        client = _client(rpc, preset, bundle.session.chain_id if bundle else 0)
        fees = client.fees()
        row |= {
            "chain_id": client.chain_id(),
            "latest": client.block_number("latest"),
            "finalized_block": client.block_number("finalized"),
            "base_fee_gwei": fees.base / 10**9,
        }
        if bundle is not None:
            row |= _session_on_chain(client, bundle.session.contract, bundle.session.id, bundle.session.coordinator)
    render(row, format)


def _session_on_chain(client: HttpChain, contract: str, session: bytes, coordinator: str) -> dict[str, Any]:
    from hypergpu_fl.chain.contract import LedgerContract
    from hypergpu_fl.chain.progress import check_code

    check_code(client, contract)
    state = LedgerContract(client, contract).session(session)
    return {
        "status": state.status.name.lower(),
        "rounds_on_chain": max(state.next - 1, 0),
        "head": "0x" + state.head.hex(),
        "pool_wei": str(state.pool),
        "owed_wei": str(state.owed),
        "paid_wei": str(state.paid),
        "coordinator_balance_wei": str(client.balance(coordinator)),
    }


@app.command(name="hand-over")
def hand_over(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="address of the next coordinator")],
    rpc: Rpc = "",
    keystore: Keystore = "",
    max_fee_gwei: MaxFee = 500.0,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Offer a run's session to another coordinator, who takes it over with ``chain take-over`` on a copy of the run.

    Example: hypergpu chain hand-over my-run --to 0x00000000000000000000000000000000000000Aa --keystore coordinator.json
    """
    from hypergpu_fl.config import Blockchain, read_secrets
    from hypergpu_fl.keccak import checksum_address
    from hypergpu_fl.settlement.handing_over import offer
    from hypergpu_fl.settlement.opening import coordinator_signer

    try:
        address = checksum_address(bytes.fromhex(to.removeprefix("0x").rjust(40, "x")))
    except ValueError:
        raise UsageError(f"{to!r} is no address", "give 0x and 40 hexadecimal digits") from None
    signer = coordinator_signer(Blockchain(keystore=keystore), read_secrets())
    client_of = partial(_client, rpc, "")
    render(offer(place_of(run, runs), client_of, signer, address, max_fee=int(max_fee_gwei * 10**9)), format)


@app.command(name="take-over")
def take_over(
    run: Run,
    rpc: Rpc = "",
    keystore: Keystore = "",
    max_fee_gwei: MaxFee = 500.0,
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Accept a session that was offered to this key; the run then goes on with it.

    Example: hypergpu chain take-over my-run --keystore coordinator.json
    """
    from hypergpu_fl.config import Blockchain, read_secrets
    from hypergpu_fl.settlement.handing_over import accept
    from hypergpu_fl.settlement.opening import coordinator_signer

    signer = coordinator_signer(Blockchain(keystore=keystore), read_secrets())
    client_of = partial(_client, rpc, "")
    render(accept(place_of(run, runs), client_of, signer, max_fee=int(max_fee_gwei * 10**9)), format)


@app.command()
def dev(
    port: Annotated[int, typer.Option("--port", help="port on this machine")] = 8545,
    state: Annotated[Path, typer.Option("--state", help="file that keeps the chain between starts")] = Path(
        "runs/.anvil.json"
    ),
) -> None:
    """Run a local anvil in Monad's shape until interrupted: a block each 0.3 s, final two blocks later.

    Example: hypergpu chain dev --port 8545
    """
    from hypergpu_fl.chain.anvil import CHAIN_ID, FUNDED_SECRET, Anvil, check_port, find_anvil

    for ending in (signal.SIGINT, signal.SIGTERM):  # a plain SIGTERM would leave anvil behind
        signal.signal(ending, signal.default_int_handler)
    check_port(port)
    state.parent.mkdir(parents=True, exist_ok=True)
    contracts = [Path("contracts"), Path(__file__).resolve().parents[2] / "contracts"]
    with Anvil(find_anvil(contracts), port=port, state=state) as anvil:
        try:
            typer.echo(f"anvil on {anvil.url}, chain id {CHAIN_ID}, state in {state}; Ctrl-C ends it")
            typer.echo("funded test key, known to everyone and worthless elsewhere:")
            typer.echo(f"  export HYPERGPU_COORDINATOR_KEY={FUNDED_SECRET.hex()}")
            anvil.process.wait()
        except KeyboardInterrupt:
            typer.echo("stopped; the state is kept")
