"""Whether a model's confidence in its count of speakers is the share of counts that are right.

    python benchmarks/counting_confidence.py CORPUS MODEL [--split test] [--picture OUT.png]

The mixtures are the counting lists of benchmarks/separator_scores.py (one and two speakers, one in noise, one in
music), and crops of conversations and of pairs in noise. Those of more speakers than the model separates are left
out: it cannot count them. Prints a table of confidence against the share that is right (a reliability diagram), and
the expected calibration error: the mean distance of both, weighted by the number of mixtures.

With --fit it prints the slope and offset of the logistic curve that fits the mixtures best. Fit on the split valid,
and check on the split test.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import platform
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from separator_scores import LIST_RATE, LISTS, Corpus, MixtureList

from unmingle.audio import resample
from unmingle.models import load_system
from unmingle.systems import System

BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.001)
CROP_SECONDS = 8.0


def wanted_lists(most: int) -> list[MixtureList]:
    """Lists of crops with at most so many speakers."""
    found = []
    for each in LISTS:
        speakers = int(str(each.config.get("speakers", 2)))
        crop = each.counting or each.name == "conversations" or each.name.startswith("noise")
        if crop and speakers <= most:
            seconds = each.seconds if each.counting else CROP_SECONDS
            # Another seed than the list that the model is scored on.
            found.append(dataclasses.replace(each, seconds=seconds, seed=7, count=min(each.count, 100)))
    return found


def counts(system: System, corpus: Corpus, wanted: MixtureList) -> NDArray[np.float64]:
    """``(mixtures, 2)``: the confidence, and 1 where the count is right."""
    rows = []
    for mixture, sources in corpus.mixtures(wanted):
        heard = torch.from_numpy(resample(mixture, LIST_RATE, system.sample_rate))[None]
        separated = system.separate(heard)
        speaking = int((np.square(sources).sum(axis=1) > 0).sum())
        rows.append([float(separated.confidence[0]), float(int(separated.count[0]) == speaking)])
    return np.array(rows)


def calibration_error(rows: NDArray[np.float64]) -> float:
    """Expected calibration error of ``(mixtures, 2)``: confidences, and whether each count is right."""
    places = np.digitize(rows[:, 0], BINS)
    distances = [
        (places == place).sum() * abs(rows[places == place, 0].mean() - rows[places == place, 1].mean())
        for place in np.unique(places)
    ]
    return float(np.sum(distances) / len(rows))


def fit(rows: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and offset: the share that is right is ``sigmoid(slope * logit(confidence) + offset)``."""
    logit = torch.logit(torch.from_numpy(rows[:, 0]).clamp(0.5, 1 - 1e-9))
    right = torch.from_numpy(rows[:, 1])
    values = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(values[0] * logit + values[1], right)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(values[0]), float(values[1])


def draw(rows: NDArray[np.float64], path: Path) -> None:
    """The reliability diagram."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    places = np.digitize(rows[:, 0], BINS)
    points = np.array([rows[places == place].mean(axis=0) for place in np.unique(places)])
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    axes.plot(points[:, 0], points[:, 1], marker="o")
    axes.set(xlabel="confidence", ylabel="share of counts that are right", xlim=(0.0, 1.02), ylim=(0.0, 1.02))
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("model")
    parser.add_argument("--split", default="test")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    system, corpus = load_system(arguments.model), Corpus(arguments.corpus, arguments.split)
    print(f"{datetime.date.today()}, {platform.machine()}, {arguments.model}, split {arguments.split}")
    print("| list | right | mean confidence |\n| --- | --- | --- |")
    parts = []
    for wanted in wanted_lists(system.speakers):
        parts.append(counts(system, corpus, wanted))
        confidence, right = parts[-1].mean(axis=0)
        print(f"| {wanted.name} | {100 * right:.0f} % | {confidence:.2f} |", flush=True)
    rows = np.concatenate(parts)
    print("\n| confidence | mixtures | mean confidence | right |\n| --- | --- | --- | --- |")
    places = np.digitize(rows[:, 0], BINS)
    for low, high, place in zip(BINS, BINS[1:], range(1, len(BINS)), strict=False):
        chosen = rows[places == place]
        if len(chosen):
            confidence, right = chosen.mean(axis=0)
            print(f"| {low:.2f} to {min(high, 1):.2f} | {len(chosen)} | {confidence:.2f} | {right:.2f} |")
    print(f"\nExpected calibration error: {calibration_error(rows):.3f} ({len(rows)} mixtures)")
    if arguments.fit:
        slope, offset = fit(rows)
        print(f"Best curve: sigmoid({slope:.3f} logit(confidence) {offset:+.3f})")
    if arguments.picture:
        draw(rows, arguments.picture)


if __name__ == "__main__":
    main()
