"""One mean over several lists of mixtures that figure2.py has scored: is a difference between runs more than chance?

    python benchmarks/figure2_together.py OUT... --runs RUN...

OUTs are what `figure2.py -o` wrote, each with mixtures of its own (--seed); every RUN must have been scored in each.
SI-SDR improvement in dB in the mean of -5, 0, 5 and 10 dB, and the difference from the last RUN, pair by pair of
utterance and noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from figure2 import LEVELS, last_stage_file

from unmingle.evaluation.summary import bootstrap_interval
from unmingle.models import file_hash


def pairs(output: Path, run: Path) -> list[float]:
    """The mean over the levels of every pair of utterance and noise."""
    record = output / "scores" / f"{file_hash(last_stage_file(run))}.json"
    if not record.is_file():
        raise SystemExit(f"{output} has no scores of {run}: run figure2.py with it first.")
    scores = json.loads(record.read_text())["scores"]
    means: list[float] = np.mean([scores[str(level)] for level in LEVELS], axis=0).tolist()
    return means


def cell(values: list[float], sign: str = "") -> str:
    low, high = bootstrap_interval(values)
    return f"{np.mean(values):{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("outputs", nargs="+", type=Path)
    parser.add_argument("--runs", nargs="+", type=Path, required=True)
    arguments = parser.parse_args()
    print("| run | pairs | mean (95 %) | against the last RUN |\n| --- | --- | --- | --- |")
    last = [value for output in arguments.outputs for value in pairs(output, arguments.runs[-1])]
    for run in arguments.runs:
        values = [value for output in arguments.outputs for value in pairs(output, run)]
        against = cell(np.subtract(values, last).tolist(), "+") if run != arguments.runs[-1] else ""
        print(f"| {run} | {len(values)} | {cell(values)} | {against} |")


if __name__ == "__main__":
    main()
