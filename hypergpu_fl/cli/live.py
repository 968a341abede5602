"""The live screen of a run, on the terminal's alternate screen, so that the terminal is as before when it ends."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live

from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.dashboard.screen import screen

Say = Callable[[str], None]


class Screen:
    """Draws a run while it is entered.

    Parameters
    ----------
    view : RunView
        The run.
    """

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._console = Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False, transient=True)
        self.messages: deque[str] = deque(maxlen=100)

    def __enter__(self) -> Screen:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def draw(self) -> None:
        """Read what was added, and draw everything at the terminal's current size."""
        view = self._view
        view.poll()
        size = self._console.size
        shown = screen(
            view.summary(),
            view.rounds,
            view.nodes(),
            width=size.width - 2,
            height=size.height,
            messages=tuple(self.messages),
        )
        self._live.update(shown, refresh=True)


@contextlib.contextmanager
def on_screen(folder: Path, say: Say, *, live: bool) -> Iterator[tuple[Say, Callable[[], None]]]:
    """Yields where a run's messages go and what draws it: the live screen, or ``say`` and nothing.

    Messages that were shown on the screen, except those of rounds, are said again when the screen has closed.
    """
    if not live:
        yield say, lambda: None
        return
    view = RunView(folder)
    screen = Screen(view)

    def note(text: str) -> None:
        if not text.startswith("round "):
            screen.messages.append(text)

    try:
        with screen:
            screen.draw()
            yield note, screen.draw
    finally:
        view.close()
        for text in screen.messages:
            say(text)
