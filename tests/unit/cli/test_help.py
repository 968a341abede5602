"""Every command says what it takes, and shows an example that it accepts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_line import parse

from hypergpu_fl import cli
from hypergpu_fl.config.resuming import CHANGEABLE

EXAMPLE = re.compile(r"Example: (.*?)(?:\n\s*\n|\Z)", re.DOTALL)


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        else:
            yield " ".join([*path, name]), command


COMMANDS = dict(walk(cli.hypergpu))


def examples(command: click.Command) -> list[str]:
    return [" ".join(found.split()) for found in EXAMPLE.findall(command.help or "")]


def test_the_walk_sees_the_commands_that_there_are() -> None:
    assert {"run", "export", "config check", "ledger proof", "node start", "bench codec"} <= set(COMMANDS)


def test_no_group_of_commands_offers_to_complete_a_program_of_its_own_name() -> None:
    context = click.Context(cli.hypergpu)
    for name in cli.hypergpu.list_commands(context):
        command = cli.hypergpu.get_command(context, name)
        assert command is not None
        assert not {"install_completion", "show_completion"} & {parameter.name for parameter in command.params}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_argument_and_option_says_what_it_is(path: str) -> None:
    silent = [
        parameter.name
        for parameter in COMMANDS[path].params
        if not (getattr(parameter, "help", None) or getattr(parameter, "hidden", False))
    ]
    assert not silent, f"{path}: {silent}"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_an_example_that_it_takes(path: str) -> None:
    found = examples(COMMANDS[path])
    assert found, f"`hypergpu {path} --help` shows no example"
    for example in found:
        assignments, command = [], shlex.split(example)
        while re.fullmatch(r"[A-Z_]+=.*", command[0]):
            assignments.append(command.pop(0))
        assert command[0] == "hypergpu"
        assert parse(command[1:]) == path, example


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_shows_example_and_arguments(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke([*path.split(), "--help"]) == 0
    assert "Example: " in capsys.readouterr().out


def test_a_nodes_start_lists_flowers_options_with_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["node", "start", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--port", "--superlink", "--root-certificates", "--auth-supernode-private-key", "--node-config"):
        assert option in shown
    assert "--isolation" not in shown


def test_what_a_resumed_run_may_change_is_told_by_help_and_readme(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["run", "--help"]) == 0
    shown, readme = capsys.readouterr().out, (Path(__file__).parents[3] / "README.md").read_text()
    for path in CHANGEABLE:
        assert path in shown and path in readme


def test_the_readme_names_every_command() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    assert not [name for name in cli.hypergpu.list_commands(click.Context(cli.hypergpu)) if f"`{name}`" not in readme]
