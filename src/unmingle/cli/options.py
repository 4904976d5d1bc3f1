"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmingle.errors import UnmingleError

if TYPE_CHECKING:
    from pydantic import ValidationError

Threads = Annotated[int | None, typer.Option("--threads", help="Processor threads (default: one per core).")]
Device = Annotated[str, typer.Option("--device", help="auto (a GPU if there is one), cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        help="A name from `unmingle models`, a .safetensors file, or an exported folder.",
    ),
]
Format = Annotated[str, typer.Option("--format", help="Format of the outputs: wav, flac, ogg or mp3.")]
Bits = Annotated[
    int | None,
    typer.Option("--bits", help="Bits per sample: 16, 24 or 32 (float); default: 32 for wav, 24 for flac."),
]
NameTemplate = Annotated[
    str,
    typer.Option(
        "--name", metavar="TEMPLATE", help="Name of an output without its suffix; {stem} is the input's name."
    ),
]
Track = Annotated[
    int | None,
    typer.Option("--track", metavar="N", help="Audio track of a video with several (default: the first)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
ShareOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do share I of N; finished work is not repeated, and the last share to end writes the results.",
    ),
]
RawPipe = Annotated[
    str | None,
    typer.Option(
        "--raw",
        metavar="FORMAT:RATE[:CHANNELS]",
        help="Samples in the pipe: s16le, s32le or f32le, for example s16le:16000.",
    ),
]


def given_options(context: typer.Context) -> dict[str, Any]:
    """The parameters that the user gave, not their defaults."""
    return {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def refuse_others(context: typer.Context, used: Iterable[str], what: str) -> None:
    """Refuse the options that have no effect.

    Args:
        context: of the command.
        used: parameters that have an effect.
        what: the option that leaves the others without effect, for the error's text.

    Raises:
        UnmingleError: the user gave one of them.
    """
    idle = sorted(given_options(context).keys() - set(used))
    if idle:
        option = next(p.opts[0] for p in context.command.params if p.name == idle[0])
        raise UnmingleError(f"{option} does not go with {what}; leave one of them out.")


def refused_option(error: ValidationError, options: Mapping[str, str]) -> UnmingleError:
    """A config's error as one that names the option. ``options`` maps fields to options of other names."""
    first = error.errors()[0]
    option = "".join(f"--{options.get(str(part), part)}: " for part in first["loc"][:1])
    return UnmingleError(option + first["msg"].removeprefix("Value error, ") + ".")


def check_range(option: str, value: float | None, low: float, high: float) -> None:
    """Refuse a number out of range. None is accepted.

    Raises:
        UnmingleError: the number is out of range.
    """
    if value is not None and not low <= value <= high:
        raise UnmingleError(f"{option} must lie between {low:g} and {high:g}; got {value}.")


def set_threads(threads: int | None) -> None:
    """Set PyTorch's number of threads."""
    if threads is None:
        return
    check_range("--threads", threads, 1, 1024)
    import torch

    torch.set_num_threads(threads)


@contextmanager
def stdin_file() -> Iterator[Path]:
    """The content of stdin as a temporary file named ``stdin``, removed at the end of the context.

    Raises:
        UnmingleError: stdin is closed.
    """
    import shutil
    import tempfile

    if sys.stdin is None:
        raise UnmingleError("stdin is closed; there is nothing to read.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def require(extra: str, *modules: str) -> None:
    """Raise an error with the install command if libraries of an extra are missing.

    Raises:
        UnmingleError: one of ``modules`` cannot be imported.
    """
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UnmingleError(
            f"This command needs {', '.join(missing)}; install with: pip install 'unmingle[{extra}]'"
        )
