"""``unmingle stress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmingle.cli.options import Device, ShareOption, Threads, check_range, require, set_threads
from unmingle.errors import UnmingleError


def command(
    corpora: Annotated[
        list[Path],
        typer.Argument(
            metavar="CORPUS...", help="Manifests, folders with speech.csv, or folders of speaker/*.flac."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME|PATH", help="Model to test (default: the default separation model)."
        ),
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="'PROG {mixture} {outdir}'",
            help="Test a program instead. It reads a WAV file and writes one file per speaker.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Limit of --command in seconds per case.")
    ] = 600.0,
    noise: Annotated[
        list[Path] | None,
        typer.Option(
            "--noise", metavar="CORPUS", help="Noise for the test `noise`: noise.csv or a folder; repeatable."
        ),
    ] = None,
    tests: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            metavar="NAME",
            help="Run only this test; repeatable. One of length, burst, corpora, rooms, snr, noise, gain, "
            "rates, overlap, single_speaker, three, voice, codecs, microphones.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="train, valid or test (default: all).")] = None,
    count: Annotated[int, typer.Option("--count", help="Cases per condition; fewer if they are long.")] = 20,
    rate: Annotated[int, typer.Option("--rate", help="Sample rate of the cases in hertz.")] = 8000,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same cases.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Folder for stress.html and stress.json (default: stress/MODEL).",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help="Number of worker processes (default: one per core).")
    ] = None,
    shard: ShareOption = None,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Test how a system generalizes.

    The tests are long input, bursts, other corpora, rooms, noise, levels, codecs and others. Mixtures
    of two speakers of CORPUS are changed in one way at a time and separated. Writes a page, and the
    same values as JSON. The tests length, burst, corpora and rooms are those of Mobin et al. 2018.
    """
    require("evaluate", "matplotlib", "jinja2")
    from unmingle.cli.progress import TerminalProgress
    from unmingle.cli.tables import print_table
    from unmingle.evaluation.candidates import CandidateConfig
    from unmingle.evaluation.evaluate import default_processes
    from unmingle.evaluation.external import ExternalProgram
    from unmingle.evaluation.stress import stress
    from unmingle.models import DEFAULT_MODEL
    from unmingle.shares import parse_share
    from unmingle.temporary import check_writable

    if model is not None and program is not None:
        raise UnmingleError("--model and --command exclude each other; give one of them.")
    check_range("--count", count, 1, 10_000)
    check_range("--processes", processes, 1, 256)
    check_range("--seed", seed, 0, 2**63 - 1)
    check_range("--rate", rate, 1000, 192_000)
    if program is not None:
        ExternalProgram(program, timeout)  # Raises its errors before the corpus is read.
    share = parse_share(shard) if shard is not None else None
    set_threads(threads)
    config = CandidateConfig(
        model=None if program else model or DEFAULT_MODEL, command=program, timeout=timeout, device=device
    )
    target = output or Path("stress") / config.build().name
    check_writable(target)
    with TerminalProgress() as progress:
        task = progress.add_task("cases", total=None)
        found = stress(
            [str(path) for path in corpora],
            config,
            target,
            noise=[str(path) for path in noise or []],
            tests=tests or [],
            split=split,
            count=count,
            sample_rate=rate,
            seed=seed,
            processes=processes or default_processes(config, 10_000),
            threads=threads,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            share=share,
        )
    if not found:
        print(
            f"share {shard} is done; the last share to end writes {target}/stress.html and {target}/stress.json"
        )
        return
    rows = [
        (
            test["name"],
            point["label"],
            f"{point['mean']:.2f}" if "mean" in point else "",
            f"{point['low_95']:.2f} to {point['high_95']:.2f}" if "mean" in point else "",
            f"{len(point['failures'])} of {point['cases']} failed" if point["failures"] else "",
        )
        for test in found["tests"]
        for point in test["conditions"]
    ]
    print_table(("test", "condition", "SI-SDRi (dB; single_speaker: SI-SDR)", "95 % interval", ""), rows)
    for name, reason in found["left_out"].items():
        print(f"left out: {name}, {reason}")
    print(f"{target}/stress.html  {target}/stress.json")
