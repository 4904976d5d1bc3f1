"""``unmingle evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from unmingle.cli.options import Device, Json, Threads, require, set_threads
from unmingle.errors import UnmingleError

LABELS = {
    "si_sdr": "SI-SDR (dB)",
    "sdr": "BSS-eval SDR (dB)",
    "magnitude_snr": "magnitude SNR (dB)",
    "pesq": "PESQ",
    "stoi": "STOI",
    "dnsmos": "DNSMOS overall",
}


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Holds mix/, s1/, s2/ ..., or noisy/, clean/.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME|PATH", help="The model to score; the default one if not given."
        ),
    ] = None,
    oracle: Annotated[
        str | None,
        typer.Option("--oracle", help="Score an ideal mask instead: ibm, irm, root_irm, wfm or psm."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change its config: formation=oracle, weight.threshold=0.5.",
        ),
    ] = None,
    mixture: Annotated[bool, typer.Option("--mixture", help="Score the mixture itself instead.")] = False,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="NAME", help="Only these: si_sdr, sdr, magnitude_snr, pesq, stoi, dnsmos."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="separate or denoise; by the folder's layout if not given.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Where scores.csv and summary.json go."),
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model, an oracle or the mixture on mixtures with known sources.

    SI-SDR and BSS-eval SDR, PESQ and STOI where installed, each with its improvement over the
    mixture, by the best permutation; for noisy/ and clean/ (VoiceBank-DEMAND's names too): SI-SDR,
    PESQ, STOI and DNSMOS. Writes one row a mixture and a summary with 95 % intervals.
    """
    require("evaluate", "fast_bss_eval")
    from rich.console import Console
    from rich.progress import Progress

    from unmingle.evaluation import evaluate
    from unmingle.models import DEFAULT_DENOISER, DEFAULT_MODEL, parse_changes

    if sum((model is not None, oracle is not None, mixture)) > 1:
        raise UnmingleError("--model, --oracle and --mixture exclude each other; give one of them.")
    if changes and (oracle or mixture):
        raise UnmingleError("--set changes a model's config; leave out --oracle and --mixture.")
    set_threads(threads)
    found = evaluate.check_task(folder, task)
    if mixture:
        candidate = evaluate.mixture_candidate()
    elif oracle:
        candidate = evaluate.oracle_candidate(oracle)
    else:
        name = model or (DEFAULT_DENOISER if found == "denoise" else DEFAULT_MODEL)
        candidate = evaluate.model_candidate(name, device, parse_changes(changes or []))
    target = output or Path("scores") / f"{folder.resolve().name}-{candidate.name}"
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(candidate.name, total=None)
        summary = evaluate.evaluate_folder(
            folder,
            candidate,
            target,
            lambda done, total: progress.update(bar, completed=done, total=total),
            metrics,
        )
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        _print_summary(summary, target)


def _print_summary(summary: dict[str, Any], target: Path) -> None:
    from unmingle.cli.tables import print_table

    rows = _rows("all", summary)
    for groups in summary["groups"].values():
        for value, group in groups.items():
            rows += _rows(value, group, only="si_sdr")
    print_table(("mixtures", "count", "metric", "mean", "improvement", "95 % interval", "median"), rows)
    worse = summary["made_worse"]
    print(
        f"made worse: {worse['mixtures']:.1%} of mixtures, {worse['talkers']:.1%} of talkers; "
        f"real-time factor {summary['real_time_factor']:.3f} with {summary['threads']} threads"
    )
    print(f"{target}/scores.csv  {target}/summary.json")


def _rows(name: str, group: dict[str, Any], only: str | None = None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for metric, label in LABELS.items():
        if metric not in group["metrics"] or (only and metric != only):
            continue
        value, gain = group["metrics"][metric], group["metrics"][f"{metric}_improvement"]
        places = 3 if metric == "stoi" else 2
        rows.append(
            (
                name,
                str(group["mixtures"]),
                label,
                f"{value['mean']:.{places}f}",
                f"{gain['mean']:+.{places}f}",
                f"{gain['low_95']:+.{places}f} .. {gain['high_95']:+.{places}f}",
                f"{gain['median']:+.{places}f}",
            )
        )
    return rows
