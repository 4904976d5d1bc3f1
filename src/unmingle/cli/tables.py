"""Tables for terminals and files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on stdout. On a terminal, long cells are folded; elsewhere, such as in a pipe, they are not."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def times_real_time(factor: float) -> str:
    """How many seconds of audio are processed in a second; ``factor`` is the real-time factor."""
    times = 1 / factor
    return f"{times:.0f}" if times >= 10 else f"{times:.1f}"
