"""What our parsers make of a command line, without running it."""

from __future__ import annotations

import click

from hypergpu_fl import cli


def parse(words: list[str]) -> str:
    """Let every parser on the way read its words, and run nothing; the command that they reach."""
    context = cli.hypergpu.make_context("hypergpu", list(words))
    group: click.Command = cli.hypergpu
    path = []
    while isinstance(group, click.Group):
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None and command is not None
        context, group = command.make_context(name, rest, parent=context), command
        path.append(name)
    return " ".join(path)
