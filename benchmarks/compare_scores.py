"""Compare models, or one model under several settings, on the same mixtures, with paired intervals.

    python benchmarks/compare_scores.py FOLDER OUTPUT ROW...

A ROW is LABEL=MODEL, or LABEL=MODEL,KEY=VALUE,KEY=VALUE with settings as in `unmingle evaluate --set`. Each row is
scored once: OUTPUT/LABEL keeps its scores until the row or the model's file changes. The table compares all rows with
the first one: the mean difference of the SI-SDR improvement with its 95 % bootstrap interval over mixtures. A
difference whose interval holds zero is undecided.
"""

from __future__ import annotations

import datetime
import hashlib
import platform
import sys
from pathlib import Path

import numpy as np
import torch

from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.evaluate import default_processes, evaluate_folder
from unmingle.evaluation.runs import Run, read_runs
from unmingle.evaluation.summary import bootstrap_interval
from unmingle.models import find_model, parse_changes

METRICS = ["si_sdr", "magnitude_snr"]


def score(folder: Path, output: Path, row: str) -> Path:
    label, _, system = row.partition("=")
    target = output / label
    model, *settings = system.split(",")
    scored = system
    if not model.startswith("oracle:"):
        scored += " " + hashlib.sha256(find_model(model).read_bytes()).hexdigest()
    note = target / "row.txt"
    if not note.is_file() or note.read_text(encoding="utf-8") != scored:
        if model.startswith("oracle:"):
            config = CandidateConfig(oracle=model.removeprefix("oracle:"))
        else:
            config = CandidateConfig(model=model, changes=parse_changes(settings))
        evaluate_folder(folder, config, target, metrics=METRICS, processes=default_processes(config, 100))
        note.write_text(scored, encoding="utf-8")
    return target


def main(folder: Path, output: Path, rows: list[str]) -> None:
    print(f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, {folder.name}\n")
    print("| row | SI-SDRi (dB) | 95 % | magnitude SNRi (dB) | made worse | against the first row |")
    print("| --- | --- | --- | --- | --- | --- |")
    first: Run | None = None
    for row in rows:
        (run,) = read_runs([score(folder, output, row)])
        gains = list(run.values("si_sdr_improvement").values())
        low, high = bootstrap_interval(gains)
        against = ""
        if first is None:
            first = run
        else:
            ours, theirs = run.values("si_sdr_improvement"), first.values("si_sdr_improvement")
            if run.summary["list_sha256"] != first.summary["list_sha256"]:
                raise SystemExit(f"{output} holds scores of another list; name another output folder")
            differences = [ours[name] - theirs[name] for name in ours if name in theirs]
            below, above = bootstrap_interval(differences)
            word = " undecided" if below <= 0 <= above else ""
            against = f"{np.mean(differences):+.2f} ({below:+.2f} to {above:+.2f}){word}"
        magnitude = np.mean(list(run.values("magnitude_snr_improvement").values()))
        print(
            f"| {row.partition('=')[0]} | {np.mean(gains):.2f} | {low:.2f} to {high:.2f} | {magnitude:.2f} "
            f"| {(np.array(gains) < 0).mean():.1%} | {against} |",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
