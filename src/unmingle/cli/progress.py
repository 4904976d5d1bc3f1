"""Progress bars on a terminal. It imports rich, so commands import it when they run."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn


class TerminalProgress(Progress):
    """A bar on stderr; nothing if stderr is not a terminal.

    Args:
        columns: what the bar shows (default: rich's own columns).
        shown: False shows nothing on a terminal either.
        transient: whether the bar disappears at the end.
    """

    def __init__(self, *columns: ProgressColumn, shown: bool = True, transient: bool = True) -> None:
        console = Console(stderr=True)
        shown = shown and console.is_terminal
        super().__init__(*columns, console=console, transient=transient, disable=not shown)

    def stop(self) -> None:
        # Before rich 14.3, a bar that is not shown prints an empty line here.
        if not self.disable:
            super().stop()
