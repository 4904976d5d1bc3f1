"""``unmingle separate``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unmingle.cli.batches import FileProgress, finish
from unmingle.cli.corpus import Cluster, CorpusOptions, Shard, ShardSize, Tar, do_corpus, model_name
from unmingle.cli.options import (
    Bits,
    Device,
    Format,
    Json,
    Model,
    NameTemplate,
    Overwrite,
    RawPipe,
    Threads,
    Track,
    refuse_others,
    set_threads,
    stdin_file,
)
from unmingle.errors import UnmingleError

if TYPE_CHECKING:
    from unmingle.separation import FileResult, Separator


def command(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE...]", help="Audio files, folders, quoted globs; - reads stdin; - - is a pipe."
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Folder for the outputs.")
    ] = "separated",
    speakers: Annotated[
        str | None,
        typer.Option(
            "--speakers",
            metavar="N|auto",
            help="Number of speakers, or auto to count them (default: auto for the default model, the model's own "
            "number for others). More than the model's number works if the speakers take turns: their voices tell "
            "them apart.",
        ),
    ] = None,
    model: Model = None,
    format: Format = "wav",
    bits: Bits = None,
    name: NameTemplate = "{stem}_speaker{n}",
    channel: Annotated[
        str,
        typer.Option(
            "--channel",
            metavar="mix|left|right|N",
            help="Channel of the input to separate; mix is the mean of all.",
        ),
    ] = "mix",
    overwrite: Overwrite = False,
    track: Track = None,
    denoise: Annotated[
        bool, typer.Option("--denoise", help="Also remove noise from every estimate.")
    ] = False,
    raw: RawPipe = None,
    live: Annotated[
        bool, typer.Option("--live", help="Separate the microphone until Ctrl-C; needs the extra live.")
    ] = False,
    listen: Annotated[
        int | None,
        typer.Option("--listen", metavar="N", help="With --live: hear speaker N alone (default: all)."),
    ] = None,
    lag: Annotated[
        float | None,
        typer.Option(
            "--lag",
            metavar="SECONDS",
            help="Maximum delay of --live and --raw behind the input (default: the model's own lag, or 1).",
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            "--timeline", metavar="FILE", help="Also write who speaks when: FILE.json, FILE.rttm or FILE.png."
        ),
    ] = None,
    shard: Shard = None,
    cluster: Cluster = None,
    shard_size: ShardSize = None,
    tar: Tar = False,
    threads: Threads = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Separate speakers into one file each.

    Reads WAV, FLAC, OGG, MP3 and more at any sample rate; m4a, mp4, webm and others need the extra
    "media". Outputs have the rate and level of the input and add up to it. Speaker 1 is the one who
    speaks first. Put file names that begin with a dash after "--".

    The default model counts the speakers. If you know their number, give it with --speakers N: that
    is surer and faster.

    \b
      unmingle separate meeting.wav                  separated/meeting_speaker1.wav, ..._speaker2.wav
      unmingle separate talks/ "more/*.mp3" -o out --format flac
      unmingle separate table.wav --speakers 3       three speakers
      unmingle separate corpus.csv -o out --shard 1/8   share 1 of 8 of a corpus
      arecord -t raw -f S16_LE -r 16000 | unmingle separate - - --raw s16le:16000 > two_channels.raw
    """
    from unmingle.denoising import load_denoiser
    from unmingle.file_batches import Output, check_output, find_inputs, find_roots
    from unmingle.models import DEFAULT_MODEL
    from unmingle.separation import FileResult, load, separate_files
    from unmingle.separation.timeline import check_timeline_path, write_timelines

    set_threads(threads)
    wanted = _number(speakers)
    if _is_stream(files, raw, live):
        used = ["files", "raw", "live", "speakers", "model", "lag", "threads", *(["listen"] if live else [])]
        refuse_others(context, used, "--live" if live else "--raw")
        _stream(load(model or DEFAULT_MODEL, "cpu"), wanted, raw, listen, lag)
        return
    if lag is not None or listen is not None:
        raise UnmingleError("--listen needs --live, and --lag needs --live or --raw; leave it out for files.")
    files = files or []
    corpus = CorpusOptions(shard, cluster, shard_size, tar)
    if corpus.in_shards():
        from unmingle.cluster.jobs import SeparationJob
        from unmingle.device import pick_device

        if timeline is not None:
            raise UnmingleError(
                "--timeline is for single files; the results of a corpus say who speaks when."
            )
        job = SeparationJob(
            model_name(model, DEFAULT_MODEL), wanted, channel, track, denoise, format.lower(), bits, name,
            pick_device(device), threads or 1,
        )  # fmt: skip
        do_corpus(job, files, output, corpus, overwrite=overwrite, as_json=as_json)
        return
    if timeline is not None:
        check_timeline_path(timeline, overwrite=overwrite)
    stdin = None
    if "-" in files:
        stdin = str(context.with_resource(stdin_file()))
        files = [stdin if name == "-" else name for name in files]
    paths, problems = find_inputs(files, Path(output))
    if not paths:
        raise UnmingleError(str(problems[0].error))
    target = Output(Path(output), format.lower(), name, bits, overwrite, find_roots(files))
    check_output(target, 2)
    separator = load(model or DEFAULT_MODEL, device)
    clean = load_denoiser().file_stream if denoise else None
    with FileProgress(paths) as progress:
        results = separate_files(
            paths,
            separator,
            target,
            speakers=wanted,
            channel=channel,
            track=track,
            clean=clean,
            on_done=progress.advance,
            on_progress=progress.show,
        )
    for result in results:
        if result.input == stdin:
            result.input, error = "stdin", result.error
            result.error = error and error.replace(stdin, "The audio from stdin")
    known = [(result.input, result.seconds, result.timeline) for result in results if not result.error]
    results += [FileResult(problem.input, error=problem.error) for problem in problems]
    table = None if as_json else partial(_print_table, separator.sample_rate, separator.most_speakers)
    try:
        if timeline is not None and known:
            write_timelines(timeline, known)
    finally:
        finish(results, separator.name, "separated", table)


def _is_stream(files: list[str] | None, raw: str | None, live: bool) -> bool:
    """Whether to separate raw samples or the microphone instead of files."""
    if live and (files or raw):
        raise UnmingleError("--live takes no files and no --raw; give one or the other.")
    if (raw is not None) != (files == ["-", "-"]):
        raise UnmingleError(
            "A pipe needs both - - and --raw FORMAT:RATE, as in: separate - - --raw s16le:16000"
        )
    if not files and not live:
        raise UnmingleError("Name a file to separate; see unmingle separate --help.")
    return live or raw is not None


def _stream(
    separator: Separator,
    speakers: int | Literal["auto"] | None,
    raw: str | None,
    listen: int | None,
    lag: float | None,
) -> None:
    from unmingle.live import LIVE_RATE, parse_raw_format, run_live, run_pipe

    if speakers == "auto":
        raise UnmingleError("A stream cannot count the speakers; say how many with --speakers N.")
    if raw is not None:
        shape = parse_raw_format(raw)
        if sys.stdin is None:
            raise UnmingleError("stdin is closed; there is nothing to read.")
        if shape.channels != 1:
            raise UnmingleError("A pipe of one channel can be separated; use --raw FORMAT:RATE.")
        stream = separator.stream(shape.sample_rate, speakers, lag)
        seconds = run_pipe(stream, shape, sys.stdin.buffer, sys.stdout.buffer)
        print(
            f"{seconds:.1f} s separated into {stream.speakers} channels, at most "
            f"{1000 * stream.lag_seconds:.0f} ms behind the input",
            file=sys.stderr,
        )
        return
    stream = separator.stream(LIVE_RATE, speakers, lag)
    if listen is not None and not 1 <= listen <= stream.speakers:
        raise UnmingleError(f"--listen must lie between 1 and {stream.speakers}; got {listen}.")
    print("Separating the microphone; Ctrl-C ends.", file=sys.stderr)
    shown = sys.stderr.isatty()
    run_live(stream, speaker=listen, on_levels=_show_levels if shown else None)
    if shown:
        print(file=sys.stderr)  # Ends the line of the levels.


def _show_levels(levels: list[float]) -> None:
    """Overwrite one line of level meters, from -60 to 0 dB."""
    bars = ["#" * max(0, min(20, round((level + 60) / 3))) for level in levels]
    line = "  ".join(f"{number} [{bar:<20}]" for number, bar in enumerate(bars, start=1))
    print(f"\r{line}", end="", file=sys.stderr, flush=True)


def _number(speakers: str | None) -> int | Literal["auto"] | None:
    if speakers is None or speakers == "auto":
        return "auto" if speakers else None
    try:
        return int(speakers)
    except ValueError:
        raise UnmingleError(f"--speakers must be a number or auto; got {speakers!r}.") from None


def _print_table(model_rate: int, most: int, results: list[FileResult]) -> None:
    from rich.markup import escape

    from unmingle.cli.tables import print_table, times_real_time

    rows = []
    for result in results:
        notes = list(result.warnings)
        if result.confidence < 1:
            # No more can be counted.
            count = f"{result.speakers} or more" if result.speakers >= most else result.speakers
            notes.append(f"{count} counted, confidence {result.confidence:.2f}")
        if result.gain_db:
            notes.append(f"level of all speakers {result.gain_db:.1f} dB to avoid clipping")
        if result.sample_rate > model_rate:
            notes.append(f"above {model_rate / 2000:g} kHz shared by the speakers' levels")
        for number, path in enumerate(result.outputs, start=1):
            first = number == 1
            rows.append(
                (
                    escape(result.input) if first else "",
                    str(number),
                    escape(path),
                    f"{result.seconds:.1f}" if first else "",
                    times_real_time(result.real_time_factor) if first else "",
                    escape("; ".join(notes)) if first else "",
                )
            )
    if rows:
        print_table(("input", "speaker", "output", "seconds", "x real time", "notes"), rows)
