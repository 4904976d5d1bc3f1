"""Compare models, or one model under several settings, on the same mixtures, with paired intervals.

    python benchmarks/compare_scores.py FOLDER OUTPUT ROW...

A ROW is LABEL=MODEL, or LABEL=MODEL,KEY=VALUE,KEY=VALUE with settings as in `unmingle evaluate --set`.
Each row is scored once (OUTPUT/LABEL keeps it); the table compares all rows with the first one: the mean
difference of the SI-SDR improvement with its 95 % bootstrap interval over mixtures. A difference
whose interval holds zero is undecided.
"""

from __future__ import annotations

import csv
import datetime
import platform
import sys
from pathlib import Path

import numpy as np
import torch

from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.evaluate import default_processes, evaluate_folder
from unmingle.evaluation.summary import bootstrap_interval
from unmingle.models import parse_changes

METRICS = ["si_sdr", "magnitude_snr"]


def score(folder: Path, output: Path, row: str) -> Path:
    label, _, system = row.partition("=")
    target = output / label
    if not (target / "scores.csv").is_file():
        model, *settings = system.split(",")
        if model.startswith("oracle:"):
            config = CandidateConfig(oracle=model.removeprefix("oracle:"))
        else:
            config = CandidateConfig(model=model, changes=parse_changes(settings))
        evaluate_folder(folder, config, target, metrics=METRICS, processes=default_processes(config, 100))
    return target


def column(target: Path, name: str) -> np.ndarray:
    with (target / "scores.csv").open(newline="", encoding="utf-8") as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def main(folder: Path, output: Path, rows: list[str]) -> None:
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, {folder.name}\n")
    print("| row | SI-SDRi (dB) | 95 % | magnitude SNRi (dB) | made worse | against the first row |")
    print("| --- | --- | --- | --- | --- | --- |")
    first: np.ndarray | None = None
    for row in rows:
        target = score(folder, output, row)
        gains = column(target, "si_sdr_improvement")
        low, high = bootstrap_interval(gains.tolist())
        if first is None:
            first, against = gains, ""
        else:
            difference = gains - first
            below, above = bootstrap_interval(difference.tolist())
            word = " undecided" if below <= 0 <= above else ""
            against = f"{difference.mean():+.2f} ({below:+.2f} .. {above:+.2f}){word}"
        magnitude = column(target, "magnitude_snr_improvement").mean()
        print(
            f"| {row.partition('=')[0]} | {gains.mean():.2f} | {low:.2f} .. {high:.2f} | {magnitude:.2f} "
            f"| {(gains < 0).mean():.1%} | {against} |",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
