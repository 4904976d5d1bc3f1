"""``unmingle evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from unmingle.cli.options import Device, Json, ShareOption, Threads, check_range, require, set_threads
from unmingle.errors import UnmingleError
from unmingle.evaluation.metric_registry import METRICS


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with mix/, s1/, s2/ ..., or noisy/, clean/.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|PATH", help="Model to score (default: that of the task)."),
    ] = None,
    oracle: Annotated[
        str | None,
        typer.Option("--oracle", help="Score an oracle mask instead: ibm, irm, root_irm, wfm or psm."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the model, for example formation=oracle; repeatable.",
        ),
    ] = None,
    speakers: Annotated[
        str | None,
        typer.Option(
            "--speakers",
            metavar="auto",
            help="auto: let the model count the speakers (default: it is told their number). A missing estimate is "
            "scored as silence. Mixtures of two and of three speakers may lie in one folder; those of two lack s3.",
        ),
    ] = None,
    mixture: Annotated[
        bool, typer.Option("--mixture", help="Score the unprocessed mixture instead.")
    ] = False,
    program: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="'PROG {mixture} {outdir}'",
            help="Score a program instead. It reads a WAV file and writes one file per speaker.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Limit of --command in seconds per mixture.")
    ] = 600.0,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help=f"Compute only this metric; repeatable. One of {', '.join(METRICS)}.",
        ),
    ] = None,
    words: Annotated[
        bool,
        typer.Option(
            "--words",
            help="Also word error rates, if mixtures.csv has texts; takes about four times the audio's length.",
        ),
    ] = False,
    task: Annotated[
        str | None, typer.Option("--task", help="separate or denoise (default: by the folder's layout).")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Folder for scores.csv and summary.json (default: scores/DIR-MODEL).",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help="Number of worker processes (default: one per core).")
    ] = None,
    shard: ShareOption = None,
    threads: Threads = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model or any program on mixtures.

    The folder DIR holds mixtures and their sources. Scores are those of the best permutation, each with
    its improvement over the mixture. Default metrics: SI-SDR, BSS-eval SDR, magnitude SNR, PESQ and
    STOI; for noisy/ and clean/ (also with VoiceBank-DEMAND's names) SI-SDR, PESQ, STOI and DNSMOS.
    Writes scores.csv, one row per mixture, and summary.json with 95 % intervals.
    """
    require("evaluate", "fast_bss_eval")
    from unmingle.evaluation.processes import prepare

    if processes != 1 and program is None:
        prepare()
    from unmingle.cli.progress import TerminalProgress
    from unmingle.data.mixture_folders import read_mixture_folder
    from unmingle.evaluation import evaluate
    from unmingle.evaluation.candidates import CandidateConfig
    from unmingle.evaluation.external import ExternalProgram
    from unmingle.models import DEFAULT_DENOISER, DEFAULT_MODEL, parse_changes
    from unmingle.shares import WHOLE, parse_share

    if sum((model is not None, oracle is not None, mixture, program is not None)) > 1:
        raise UnmingleError(
            "--model, --oracle, --mixture and --command exclude each other; give one of them."
        )
    if changes and (oracle or mixture or program):
        raise UnmingleError("--set changes a model's config; it goes with --model alone.")
    if speakers not in (None, "auto"):
        raise UnmingleError(
            f"--speakers can only be auto: otherwise the true number is given; got {speakers!r}."
        )
    if speakers and (oracle or mixture or program):
        raise UnmingleError("--speakers auto lets a model count; it goes with --model alone.")
    check_range("--processes", processes, 1, 256)
    share = parse_share(shard) if shard is not None else None
    if words:
        require("words", "pocketsphinx", "jiwer")
    set_threads(threads)
    found = evaluate.check_task(folder, task)
    if model is None and not (mixture or oracle or program):
        model = DEFAULT_DENOISER if found == "denoise" else DEFAULT_MODEL
    if program is not None:
        ExternalProgram(program, timeout)  # Raises its errors before the mixtures are read.
    config = CandidateConfig(
        mixture=mixture,
        oracle=oracle,
        model=model,
        changes=parse_changes(changes or []),
        counts=speakers == "auto",
        device=device,
        command=program,
        timeout=timeout,
    )
    candidate = config.build()
    target = output or Path("scores") / f"{folder.resolve().name}-{candidate.name}"
    with TerminalProgress() as progress:
        bar = progress.add_task(candidate.name, total=None)
        summary = evaluate.evaluate_folder(
            folder,
            config,
            target,
            lambda done, total: progress.update(bar, completed=done, total=total),
            metrics,
            words=words,
            processes=processes
            or evaluate.default_processes(
                config, len((share or WHOLE).pick(read_mixture_folder(folder, fewest=1)))
            ),
            threads=threads,
            share=share,
        )
    if not summary and not as_json:
        print(
            f"share {shard} is done; the last share to end writes {target}/scores.csv and {target}/summary.json"
        )
    elif as_json:
        print(json.dumps(summary, indent=2))
    else:
        _print_summary(summary, target)


def _print_summary(summary: dict[str, Any], target: Path) -> None:
    from unmingle.cli.tables import print_table

    rows = _rows("all", summary)
    for groups in summary["groups"].values():
        for value, group in groups.items() if len(groups) > 1 else ():
            rows += _rows(value, group, only="si_sdr")
    if rows:
        print_table(
            ("mixtures", "count", "metric", "mean", "improvement", "95 % over mixtures", "median"), rows
        )
    if counting := summary.get("counting"):
        table = counting["confusion"]
        heads = ("speakers", *(f"counted {number}" for number in next(iter(table.values()))))
        print_table(heads, [(true, *map(str, row.values())) for true, row in table.items()])
        print(f"the number of speakers is right in {counting['right']} of {counting['mixtures']} mixtures")
    if words := summary.get("words"):
        rates = ", ".join(f"{name} {rate:.1%}" for name, rate in words["rates"].items())
        print(f"word error rate of {words['speakers']} speakers, {words['words']} words: {rates}")
        print(f"(by {words['recognizer']}; the nearer `clean` is to 0, the more these rates tell)")
    failures = summary["failures"]
    if failures["count"]:
        print(f"FAILED on {failures['count']} of {summary['mixtures']} mixtures, which are in no mean:")
        for text, count in failures["reasons"].items():
            print(f"  {count} x {text}")
        print(f"  {', '.join(failures['names'][:5])}{' ...' if failures['count'] > 5 else ''}")
    if summary["notes"]:
        print("notes on mixtures that were scored nevertheless:")
        for text, count in summary["notes"].items():
            print(f"  {count} x {text}")
    worse = summary["made_worse"]
    factor = summary["real_time_factor"]
    print(
        f"made worse: {worse['mixtures']:.1%} of mixtures, {worse['speakers']:.1%} of speakers; real-time factor "
        f"{'none' if factor is None else format(factor, '.3f')}, peak memory {summary['peak_mib']:.0f} MiB, "
        f"processes {summary['processes']}"
    )
    print(f"{target}/scores.csv  {target}/summary.json")


def _rows(mixtures: str, group: dict[str, Any], only: str | None = None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, metric in METRICS.items():
        if name not in group["metrics"] or (only and name != only):
            continue
        value, gain = group["metrics"][name], group["metrics"].get(f"{name}_improvement")
        places = metric.decimals
        rows.append(
            (
                mixtures,
                str(value["count"]),
                metric.label,
                f"{value['mean']:.{places}f}",
                f"{gain['mean']:+.{places}f}" if gain else "",
                f"{gain['low_95']:+.{places}f} to {gain['high_95']:+.{places}f}" if gain else "",
                f"{gain['median']:+.{places}f}" if gain else "",
            )
        )
    return rows
