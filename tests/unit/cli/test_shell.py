"""The command shell: what it lists, how it fails, and what it does not import."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import typer

from hypergpu_fl import __version__, cli
from hypergpu_fl.errors import ConfigError, Fault, Interrupted, RunFailed, UsageError
from hypergpu_fl.redaction import register
from strategies.flower_internals import READ_IN, OtherFlower

Command = Callable[..., tuple[int, str, str]]


def raising(error: BaseException) -> Callable[..., None]:
    def command(*args: object, **kwargs: object) -> None:
        raise error

    return command


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let `hypergpu` raise what is given, instead of what the sub-command would do."""

    def arm(error: BaseException) -> None:
        command = click.Command("doctor", callback=raising(error))
        # no real command raises each of these errors at will
        monkeypatch.setattr(cli.Commands, "get_command", lambda self, ctx, name: command)

    return arm


def test_help_lists_commands_without_importing_what_they_need() -> None:
    code = (
        "import sys; from hypergpu_fl.cli import invoke; invoke(['--help']);"
        "heavy = {'torch', 'web3', 'flwr', 'ray', 'numpy', 'pydantic', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("run", "config", "doctor"):
        assert f"\n  {name}" in done.stdout


def test_checking_a_configuration_loads_neither_torch_nor_flower() -> None:
    code = "import sys, hypergpu_fl.cli.config; assert not {'torch', 'flwr'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_that_is_gone_and_an_output_that_is_full_are_told_as_such(tmp_path: Path) -> None:
    gone = (
        "import os, sys; from hypergpu_fl.cli import invoke; os.mkdir('x'); os.chdir('x'); os.rmdir('../x');"
        "sys.exit(invoke(['report', '--runs', 'runs']))"
    )
    full = "import sys; from hypergpu_fl.cli import invoke; sys.exit(invoke(['config', 'schema']))"
    for code, out, cause, remedy in (
        (gone, os.devnull, "the folder in which this was typed is gone", "change into one that is there"),
        (full, "/dev/full", "this cannot be written: No space left on device", "make room where it goes to"),
    ):
        command = [sys.executable, "-c", code]
        with open(out, "wb") as stdout:
            done = subprocess.run(command, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith(f"error: {cause}\nremedy: {remedy}")


def test_version_is_the_packages(hypergpu: Command) -> None:
    assert hypergpu("--version") == (0, f"hypergpu {__version__}\n", "")


def test_every_listed_command_has_help_and_is_a_real_command(hypergpu: Command) -> None:
    context = click.Context(cli.hypergpu)
    names = cli.hypergpu.list_commands(context)
    assert {"run", "config", "doctor"} <= set(names) <= set(cli.COMMANDS)
    for name in names:
        code, out, err = hypergpu(name, "--help")
        assert (code, err) == (0, "")
        assert "Usage: hypergpu " + name in out


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (UsageError("cause", "remedy"), 2, "error: cause\nremedy: remedy\n"),
        (RunFailed("cause\nover lines"), 1, "error: cause over lines\n"),
        (Interrupted("stopped", "resume"), 130, "error: stopped\nremedy: resume\n"),
        (
            ConfigError([Fault("a", "b"), Fault("c", "d")]),
            2,
            "error: a\nremedy: b\nerror: c\nremedy: d\n",
        ),
        (KeyboardInterrupt(), 130, "error: stopped by the user\nremedy: run the command again to start over\n"),
        (click.FileError("x", "gone"), 1, "error: Could not open file 'x': gone\nremedy: see `hypergpu --help`\n"),
        (
            KeyError("bug"),
            1,
            "error: unexpected KeyError: 'bug'\nremedy: run it again with --debug and report the traceback\n",
        ),
        (
            PermissionError(13, "Permission denied", "/full/runs"),
            1,
            "error: '/full/runs' cannot be used: Permission denied\nremedy: mend that path, or name another one\n",
        ),
        (
            OSError("no file is named"),
            1,
            "error: unexpected OSError: no file is named\nremedy: run it again with --debug and report the traceback\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.json"),
            1,
            "error: 'out.json' cannot be written: No space left on device\n"
            "remedy: make room where it goes to, or write it elsewhere\n",
        ),
        (
            OtherFlower("time", "flwr.app"),
            2,
            f"error: Flower {version('flwr')} has no time in flwr.app, as {READ_IN} has\n"
            f"remedy: install flwr {READ_IN}\n",
        ),
        (BrokenPipeError(), 141, ""),
        (typer.Exit(3), 3, ""),
    ],
)
def test_an_error_is_two_lines_and_an_exit_code(
    hypergpu: Command, boom: Callable[[BaseException], None], error: BaseException, code: int, stderr: str
) -> None:
    boom(error)
    assert hypergpu("doctor") == (code, "", stderr)


def test_a_traceback_appears_only_with_debug_and_without_secrets(
    hypergpu: Command, boom: Callable[[BaseException], None]
) -> None:
    register("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318")
    boom(ValueError("key 0x4C0883A69102937D6231471B5DBB6204FE5129617082792AE468D01A3F362318 at https://u:p4ss@h/"))
    for words in (["doctor"], ["doctor", "--debug"], ["--debug", "doctor"]):
        code, out, err = hypergpu(*words)
        assert (code, out) == (1, "")
        assert ("Traceback" in err) is ("--debug" in words)
        assert "unexpected ValueError: key 0x*** at https://***@h/" in err
        assert "4C0883A6" not in err and "p4ss" not in err


@pytest.mark.parametrize(
    ("words", "stderr"),
    [
        (["dotcor"], "error: No such command 'dotcor'\nremedy: did you mean 'doctor'?\n"),
        (["task", "chek"], "error: No such command 'chek'\nremedy: did you mean 'check'?\n"),
        (["xyzzy"], "error: No such command 'xyzzy'\nremedy: see `hypergpu --help`\n"),
        (["doctor", "--runz"], "error: No such option '--runz'\nremedy: did you mean '--runs'?\n"),
        (
            ["export", "--round", "3"],
            "error: No such option '--round'\nremedy: did you mean one of: '--json', '--out', '--runs'?\n",
        ),
        (["doctor", "--zzz"], "error: No such option '--zzz'\nremedy: see `hypergpu doctor --help`\n"),
        (["config", "check"], "error: Missing argument 'FILE'\nremedy: see `hypergpu config check --help`\n"),
        (
            ["config", "show", "--set", "x"],
            "error: --set 'x' is not KEY=VALUE\nremedy: write --set training.rounds=5\n",
        ),
    ],
)
def test_bad_usage_exits_2_with_a_hint(hypergpu: Command, words: list[str], stderr: str) -> None:
    assert hypergpu(*words) == (2, "", stderr)


def test_main_exits_with_the_code_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hypergpu", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0


def test_a_configuration_given_as_an_argument_is_told_its_option(hypergpu: Command) -> None:
    code, _, err = hypergpu("run", "mine.toml")
    assert code == 2 and "remedy: did you mean '--config mine.toml'?" in err
    assert "--config" not in hypergpu("init", "a", "mine.toml")[2]


def test_whatever_a_command_logs_is_said_in_the_form_of_all_commands() -> None:
    code = (
        "import click; from hypergpu_fl import cli\n"
        "def command():\n"
        "    from loguru import logger\n"
        "    logger.warning('odd\\nnews'); logger.info('news'); logger.debug('no news')\n"
        "cli.Commands.get_command = lambda self, context, name: click.Command(name, callback=command)\n"
        "assert not any(cli.invoke([name]) for name in cli.COMMANDS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: odd\n    news\nnews\n" * len(cli.COMMANDS)
