"""The program ``unmingle``: its commands, and how errors are reported."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from unmingle.cli import (
    data,
    denoise,
    evaluate,
    export,
    fix_attractors,
    mix,
    models,
    report,
    separate,
    serve,
    stress,
    train,
)
from unmingle.errors import UnmingleError, in_one_line, reason

HELP = """Separate overlapping speakers, and remove noise from speech, from one microphone.

\b
  unmingle separate meeting.wav            two files in the folder separated/
  unmingle denoise noisy.wav               a clean file in the folder denoised/
  unmingle serve                           a page in the browser for both
  unmingle models                          list the pretrained models
  unmingle export MODEL -o DIR             write a model as ONNX graphs
  unmingle data list                       list public corpora to fetch and index
  unmingle mix CORPUS -o test --count 300  make test mixtures in the layout of WSJ0-mix
  unmingle evaluate test                   score a model or any program on them
  unmingle report scores/*                 compare scored systems on one page
  unmingle stress CORPUS                   test with long input, noise, rooms, codecs ...
  unmingle train RECIPE.yaml --data CORPUS train a model of your own
  unmingle fix-attractors MODEL            store attractors, so that a model needs no clustering

Help on a command: unmingle COMMAND --help

Exit code: 0 if everything worked, 2 if something failed (one sentence on stderr says what).
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from unmingle import __version__

        typer.echo(f"unmingle {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Print details and tracebacks on stderr; put it before the command."),
    ] = False,
) -> None:
    if debug:
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger("unmingle").setLevel(logging.DEBUG)


app.command("separate")(separate.command)
app.command("denoise")(denoise.command)
app.command("serve")(serve.command)
app.add_typer(models.app, name="models")
app.command("export")(export.command)
app.add_typer(data.app, name="data")
app.command("mix")(mix.command)
app.command("evaluate")(evaluate.command)
app.command("stress")(stress.command)
app.command("report")(report.command)
app.command("train")(train.command)
app.command("fix-attractors")(fix_attractors.command)


def main() -> None:
    """Run a command; a user's mistake becomes one sentence on stderr and exit code 2."""
    # On SIGTERM a command cleans up as it does after Ctrl-C.
    with suppress(ValueError):  # Raised if this is not the main thread of the calling program.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _prepare_torch()
    _prepare_streams()
    try:
        try:
            if "" in sys.argv[1:]:
                raise UnmingleError("An argument is empty; is a variable unset?")
            app()
        finally:
            _flush()
    except UnmingleError as error:
        _say(str(error))
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # typer's exit code for Ctrl-C
            _say("interrupted; no incomplete file is left as a result.")
        raise
    except BrokenPipeError:
        # The reader of the output has ended, as in `| head`.
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        _unexpected(error, reason(error))
    except Exception as error:
        _unexpected(error, in_one_line(error)[:200])


def _prepare_torch() -> None:
    """Let waiting threads sleep instead of spin, and bound a cache. torch reads these variables on its import."""
    # If other programs are busy, spinning threads make two threads many times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # oneDNN keeps 1,024 prepared operations. Each length of a file needs new ones: half a gigabyte in 10,000 files.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def _prepare_streams() -> None:
    """Escape what a terminal cannot show, and replace closed streams by ones that discard their text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """Report a full disk here. Otherwise Python would find it after the exit code is set, when it ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        with suppress(OSError):
            sys.stdout.close()
        raise


def _say(text: str) -> None:
    print(f"unmingle: {text}", file=sys.stderr)


def _unexpected(error: Exception, what: str) -> NoReturn:
    """Report an error that no command expects: a bug, or an error of the operating system."""
    logging.getLogger("unmingle").debug("unexpected", exc_info=error)
    _say(f"the command failed ({what}); `unmingle --debug ...` prints details.")
    sys.exit(2)
