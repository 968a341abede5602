"""The ``hypergpu`` command.

Sub-commands live in modules of this package and are imported only when they are asked for, so that ``--help`` and
``config check`` do not wait for torch, web3 or Flower. An error is two lines on standard error, cause and remedy,
and an exit code; a traceback appears only with ``--debug``.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import click

from hypergpu_fl import __version__
from hypergpu_fl.errors import Fault, HyperGPUError
from hypergpu_fl.output import printable
from hypergpu_fl.redaction import redact
from strategies.flower_internals import OtherFlower

_READER_GONE: Final = 141  # as a shell reports SIGPIPE
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# command -> (module:attribute with its Typer app, one line of help)
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("init:app", "Start a project of one's own: task, configuration, test and README."),
    "task": ("task:app", "Try a task in seconds, and see what a round of it costs."),
    "run": ("run:app", "Check the configuration, then train through Flower."),
    "attach": ("attach:app", "Find a run on a SuperLink again, and follow it to its end."),
    "config": ("config:app", "Check a configuration, show effective values, print the JSON Schema."),
    "doctor": ("doctor:app", "Check this machine: Python, torch, GPU, SuperLink, chain, clock, disk."),
    "bench": ("bench:app", "Measure against the peers, with the peer in the same process run."),
    "nodes": ("nodes:app", "The nodes of a run: links, quality, success rate."),
    "replay": ("replay:app", "Decide a run's rounds again from its log, and compare."),
    "node": ("node:app", "Certificates, keys and registration of a deployment; start a node."),
    "export": ("export:app", "Take a run's model home, as a state dict."),
    "server": ("server:app", "Start the server's side of a deployment: SuperLink and ServerApps."),
    "ledger": ("ledger:app", "List, show, verify, prove and export the books of a run."),
    "rewards": ("rewards:app", "What each node of a run earned."),
    "claim": ("claim:app", "Claim a node's rewards on chain."),
    "chain": ("chain:app", "Deploy the contract, see its state, start a local chain."),
    "keys": ("keys:app", "Make and show keystores of nodes and the coordinator."),
    "watch": ("watch:app", "Follow a run in the terminal."),
    "dashboard": ("dashboard:app", "Follow runs in the browser."),
    "report": ("report:app", "Write a run as one HTML file to send."),
    "compare": ("report:comparison", "Show several runs side by side."),
}


class Commands(click.Group):
    """Group that imports a command's module when it is invoked, and lists those whose modules exist."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the table, not in alphabetical order."""
        return [name for name, (target, _) in COMMANDS.items() if find_spec(_module(target))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module and turn its Typer app into a Click command."""
        return _command(name) if name in self.list_commands(ctx) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like Click's, with a did-you-mean."""
        from strategies.spelling import did_you_mean

        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            raise click.UsageError(f"No such command {args[0]!r}{did_you_mean(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@cache  # building it takes five times as long as `ledger verify`, which tests call thousands of times
def _command(name: str) -> click.Command:
    from typer.main import get_command

    _keep_help_of_arguments()
    target, help_ = COMMANDS[name]
    command = get_command(getattr(import_module(_module(target)), target.partition(":")[2]))
    command.name = name
    command.help = command.help or help_
    return command


def _keep_help_of_arguments() -> None:
    """Keep the help of arguments: Typer 0.20, the newest that Flower allows, sets it, and Click 8.5 overwrites it."""
    import typer.main
    from typer.core import TyperArgument

    class Argument(TyperArgument):
        def __init__(self, *, help: str | None = None, **settings: Any) -> None:
            super().__init__(help=help, **settings)
            self.help = help

    vars(typer.main)["TyperArgument"] = Argument


def _module(target: str) -> str:
    return f"{__name__}.{target.partition(':')[0]}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="hypergpu %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def hypergpu(debug: bool) -> None:
    """Train one model on GPUs behind unequal internet links, as a Flower app: no chain, token or account needed."""
    from hypergpu_fl import logs  # not above: `hypergpu --help` need not wait for it

    logs.say_as_commands_do()


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are written to standard error."""
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    arguments = [word for i, word in enumerate(arguments) if i >= end or word != "--debug"]
    try:
        # Not Click's main(), which would write errors to standard error in its own way.
        with hypergpu.make_context("hypergpu", arguments, obj=debug) as context:
            hypergpu.invoke(context)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except HyperGPUError as error:
        return _fail(error.faults, error.exit_code, debug)
    except OtherFlower as error:
        return _fail([Fault(str(error), error.remedy)], 2, debug)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "hypergpu"
        cause, near, guess = error.format_message().partition("id you mean ")
        guess = guess.partition("?")[0]  # Click and Typer both guess at a command; several guesses stand in brackets
        remedy = f"d{near}{guess}?" if near else _option_meant(error, cause) or f"see `{path} --help`"
        return _fail([Fault(cause.rstrip("D;d. ("), remedy)], 2, debug)
    except click.ClickException as error:
        return _fail([Fault(error.format_message(), "see `hypergpu --help`")], error.exit_code, debug)
    except (click.Abort, KeyboardInterrupt):
        return _fail([Fault("stopped by the user", "run the command again to start over")], 130, debug)
    except BrokenPipeError:
        return _READER_GONE
    except OSError as error:
        fault = _refused_by_the_machine(error)
        return _fail([fault], 1, debug) if fault else _unexpected(error, debug)
    except Exception as error:  # the last resort: two lines instead of a traceback
        return _unexpected(error, debug)
    return 0


def _refused_by_the_machine(error: OSError) -> Fault | None:
    """What the machine refused, and the remedy; None if the error does not tell."""
    what = repr(str(error.filename)) if error.filename else "this"
    if error.errno in _FULL:
        return Fault(f"{what} cannot be written: {error.strerror}", "make room where it goes to, or write it elsewhere")
    if error.filename and error.strerror:
        return Fault(f"{what} cannot be used: {error.strerror}", "mend that path, or name another one")
    try:
        os.getcwd()
    except FileNotFoundError:
        return Fault("the folder in which this was typed is gone", "change into one that is there, and type it again")
    return None


def _option_meant(error: click.UsageError, cause: str) -> str:
    """Remedy for a configuration that was given as an argument to a command that takes it as an option."""
    found = re.search(r"unexpected extra argument \((\S+\.(?:toml|json))\)", cause)
    options = [option for parameter in error.ctx.command.params for option in parameter.opts] if error.ctx else []
    return f"did you mean '--config {found[1]}'?" if found and "--config" in options else ""


def _unexpected(error: Exception, debug: bool) -> int:
    cause = f"unexpected {type(error).__name__}: {error}"
    return _fail([Fault(cause, "run it again with --debug and report the traceback")], 1, debug)


def _fail(faults: Sequence[Fault], code: int, debug: bool) -> int:
    if debug:
        sys.stderr.write(redact(traceback.format_exc()))
    for fault in faults:
        for label, text in (("error", fault.cause), ("remedy", fault.remedy)):
            if text:
                sys.stderr.write(f"{label}: {printable(redact(' '.join(text.split())))}\n")
    return code


def main() -> None:
    """Entry point of the ``hypergpu`` script."""
    code = invoke(sys.argv[1:])
    if code == _READER_GONE:  # as in `| head`; Python would complain again when it flushes standard output at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
