"""``unmingle denoise``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmingle.cli.batches import FileProgress, finish
from unmingle.cli.corpus import Cluster, CorpusOptions, Shard, ShardSize, Tar, do_corpus, model_name
from unmingle.cli.options import (
    Bits,
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
)
from unmingle.errors import UnmingleError

if TYPE_CHECKING:
    from unmingle.denoising import DenoisingResult, Enhancer
    from unmingle.file_batches import Output


def command(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE...]", help="Audio files, folders, quoted globs; or - - for a pipe."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Folder for the outputs.")
    ] = "denoised",
    model: Model = None,
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="0..1",
            help="How much noise to remove: the gain is at least 1 - STRENGTH (0.9: at most 20 dB less).",
        ),
    ] = 1.0,
    format: Format = "wav",
    bits: Bits = None,
    name: NameTemplate = "{stem}_denoised",
    overwrite: Overwrite = False,
    raw: RawPipe = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Clean the microphone and play it until Ctrl-C; needs the extra live."),
    ] = False,
    track: Track = None,
    shard: Shard = None,
    cluster: Cluster = None,
    shard_size: ShardSize = None,
    tar: Tar = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Remove noise from speech.

    For recordings of one speaker. Outputs have the rate, level, length and channels of the input. The
    model works up to 8 kHz; sound above is attenuated as much as the octave below. Long files need little
    more memory than short ones.

    \b
      unmingle denoise talk.wav              denoised/talk_denoised.wav
      unmingle denoise - - <noisy.wav >clean.wav
      unmingle denoise --live                needs the extra "live"
      arecord -t raw -f S16_LE -r 16000 | unmingle denoise - - --raw s16le:16000 | aplay ...
    """
    set_threads(threads)
    piped = files is not None and "-" in files
    if live and files:
        raise UnmingleError("--live takes no files; give one or the other.")
    if piped and files != ["-", "-"]:
        raise UnmingleError("A pipe is `unmingle denoise - -`; - does not go with files.")
    if raw is not None and not piped:
        raise UnmingleError("--raw is for a pipe, as in: denoise - - --raw s16le:16000")
    if not files and not live:
        raise UnmingleError("Name a file to clean; see unmingle denoise --help.")

    from unmingle.denoising import attenuation_limit_of, load_denoiser
    from unmingle.file_batches import Output, check_output, find_roots
    from unmingle.live import LIVE_RATE, run_live
    from unmingle.models import DEFAULT_DENOISER

    always = ["files", "raw", "live", "model", "strength", "threads"]
    if live or raw is not None:
        refuse_others(context, always, "--live" if live else "--raw")
    elif piped:
        refuse_others(context, [*always, "format", "bits", "track"], "a pipe")
    corpus = CorpusOptions(shard, cluster, shard_size, tar)
    if corpus.in_shards():
        from unmingle.cluster.jobs import DenoisingJob

        model = model_name(model, DEFAULT_DENOISER)
        limit = attenuation_limit_of(strength)
        job = DenoisingJob(model, limit, track, format.lower(), bits, name, threads=threads or 1)
        do_corpus(job, files or [], output, corpus, overwrite=overwrite, as_json=as_json)
        return
    target = Output(Path(output), format.lower(), name, bits, overwrite, find_roots(files or []))
    if files and not piped:
        check_output(target, 1)
    limit = attenuation_limit_of(strength)
    enhancer = load_denoiser(model or DEFAULT_DENOISER, attenuation_limit=limit)
    if live:
        print("Cleaning the microphone; Ctrl-C ends.", file=sys.stderr)
        run_live(enhancer.stream(LIVE_RATE))
    elif raw is not None:
        _pipe(enhancer, raw)
    elif piped:
        _through(enhancer, format.lower(), bits, track)
    else:
        assert files
        _files(files, enhancer, target, as_json, track)


def _pipe(enhancer: Enhancer, text: str) -> None:
    from unmingle.live import parse_raw_format, run_pipe

    raw = parse_raw_format(text)
    if sys.stdin is None:
        raise UnmingleError("stdin is closed; there is nothing to read.")
    stream = enhancer.stream(raw.sample_rate, raw.channels)
    seconds = run_pipe(stream, raw, sys.stdin.buffer, sys.stdout.buffer)
    print(
        f"{seconds:.1f} s cleaned, {1000 * stream.lag_seconds:.0f} ms behind the input at most",
        file=sys.stderr,
    )


def _through(enhancer: Enhancer, format: str, bits: int | None, track: int | None) -> None:
    """Read an audio file from stdin, clean it, and write it to stdout."""
    import shutil
    import tempfile

    from unmingle.cli.options import stdin_file
    from unmingle.denoising import denoise_files
    from unmingle.file_batches import Output

    with stdin_file() as path, tempfile.TemporaryDirectory() as folder:
        output = Output(Path(folder), format, "{stem}", bits)
        (result,) = denoise_files([path], enhancer, output, track=track)
        if result.error:
            raise UnmingleError(result.error.replace(str(path), "The audio from stdin"))
        for warning in result.warnings:
            print(f"unmingle: {warning}", file=sys.stderr)
        with open(result.output, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _files(names: list[str], enhancer: Enhancer, output: Output, as_json: bool, track: int | None) -> None:
    from unmingle.denoising import DenoisingResult, denoise_files
    from unmingle.file_batches import find_inputs

    paths, problems = find_inputs(names, output.folder)
    if not paths:
        raise UnmingleError(str(problems[0].error))
    with FileProgress(paths) as progress:
        results = denoise_files(paths, enhancer, output, progress.advance, track=track)
    results += [DenoisingResult(problem.input, error=problem.error) for problem in problems]
    finish(
        results, enhancer.name, "cleaned", None if as_json else partial(_print_table, enhancer.sample_rate)
    )


def _print_table(model_rate: int, results: list[DenoisingResult]) -> None:
    from rich.markup import escape

    from unmingle.cli.tables import print_table, times_real_time

    rows = []
    for result in results:
        notes = list(result.warnings)
        if result.sample_rate > model_rate:
            notes.append(f"above {model_rate / 2000:g} kHz attenuated as the octave below")
        rows.append(
            (
                escape(result.input),
                escape(result.output),
                f"{result.seconds:.1f}",
                times_real_time(result.real_time_factor),
                escape("; ".join(notes)),
            )
        )
    if rows:
        print_table(("input", "output", "seconds", "x real time", "notes"), rows)
