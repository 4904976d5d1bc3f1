"""Figure 2 of Sivaraman & Kim 2020 on open data: tables and pictures from trained runs.

    python benchmarks/figure2.py CORPUS -o OUT RUN...

CORPUS holds speech.csv and noise.csv; RUNs are folders of `unmingle train`: generalists, mixtures of local
experts (before their stage `all` they are the naive ensemble, after it the fine-tuned one; with a stage `choice`
and no `all`, what they began with and a learned choice), and gates alone. On 300 (--count) noisy test mixtures for
each of -5, 0, 5 and 10 dB (made once, in OUT/mixtures): SI-SDR improvement by input SNR against arithmetic, and what
each gate chose; and on as many of 30 dB, where there is next to nothing to improve and much to lose: the mean is
without them. The last column compares with the last RUN that is no gate alone, mixture by
mixture. Each model is scored once (OUT/scores keeps it).
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from unmingle.batch import GENDERS, MixtureBatch
from unmingle.data.mixture_folders import MixtureItem, read_item, read_mixture_folder
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.evaluation.summary import bootstrap_interval
from unmingle.frontend import Spectra
from unmingle.masks import apply_masks
from unmingle.metrics import si_sdr
from unmingle.models import file_hash, load_system
from unmingle.networks import LstmConfig
from unmingle.systems import DenoisingSystem, LocalExperts

LEVELS = (-5, 0, 5, 10)
NEARLY_CLEAN = 30
STYLES = {
    "generalist": ("-", "s"),
    "true choice": (":", "^"),
    "naive": ("--", "v"),
    "learned choice": ("-.", "D"),
    "fine-tuned": ("-", "o"),
}
CHOICES = {"all": "fine-tuned", "choice": "learned choice"}
"""How one of the specialists is chosen after a run with such a stage."""


@dataclass
class Curve:
    """One system's scores: SI-SDR improvement in dB by input SNR, one value per mixture."""

    size: str
    latent: str
    """What the specialists divide by, or ``generalist``; how they heard it, and how the gate listens."""
    choice: str
    """How one of them is chosen, a key of :data:`STYLES`."""
    macs: float
    """Of the networks that run: millions per second of audio."""
    scores: dict[int, list[float]]

    @property
    def name(self) -> str:
        return (
            f"{self.family} {self.size}"
            if self.choice == "generalist"
            else f"{self.latent} {self.size}, {self.choice}"
        )

    @property
    def family(self) -> str:
        return self.latent if self.choice == "generalist" else f"{self.latent}, {self.choice}"

    def every(self) -> list[float]:
        """What the mean is over."""
        return [value for level in LEVELS for value in self.scores[level]]

    def pairs(self) -> list[float]:
        """The mean of each utterance and its noise over the levels, which have the same ones: what is independent."""
        means: list[float] = np.mean([self.scores[level] for level in LEVELS], axis=0).tolist()
        return means

    def mean(self) -> float:
        return float(np.mean(self.every()))

    def row(self, last: Curve | None = None) -> str:
        """A line of the table; with the paired difference from ``last``, if given."""
        every = self.every()
        low, high = bootstrap_interval(self.pairs())
        cells = [f"{np.mean(self.scores[level]):.2f}" for level in (*LEVELS, NEARLY_CLEAN)]
        worse = np.mean([value < 0 for value in every])
        against = ""
        if last is not None and last is not self:
            differences = np.subtract(self.pairs(), last.pairs())
            below, above = bootstrap_interval(differences.tolist())
            against = f"{differences.mean():+.2f} ({below:+.2f} to {above:+.2f})"
        return (
            f"| {self.name} | {self.macs:.0f} | {' | '.join(cells)} "
            f"| {self.mean():.2f} ({low:.2f} to {high:.2f}) | {worse:.1%} | {against} |"
        )


class Scored(NamedTuple):
    """One model on all mixtures."""

    scores: dict[int, list[float]]
    """SI-SDR improvements in dB by input SNR."""
    choices: dict[int, list[int]]
    """Which specialist ran, by input SNR."""
    confusion: np.ndarray
    """Of the gate at :data:`LEVELS`: (true, chosen)."""

    def macs(self, system: DenoisingSystem, seconds: list[float], *, gate: bool = True) -> float:
        """Million multiply-accumulates for a second of the mixtures at :data:`LEVELS`, so many seconds each."""
        choices = [choice for level in LEVELS for choice in self.choices[level]]
        total = 0
        for each, choice in zip(seconds, choices, strict=True):
            if isinstance(system, LocalExperts) and gate:
                total += system.multiply_accumulates(each, choice)
            else:
                total += system.experts[0].multiply_accumulates(system.processed_frames(each))
        return total / sum(seconds) / 1e6


def mixtures(corpus: str, folder: Path, count: int = 300, seed: int = 1) -> dict[int, list[MixtureItem]]:
    """The test mixtures of every input SNR, made where they are not there yet."""
    items = {}
    for level in (*LEVELS, NEARLY_CLEAN):
        if not (folder / str(level)).is_dir():
            config = MixtureFolderConfig(
                corpora=[corpus], noise=[corpus], split="test", count=count, speakers=1,
                snr=(level, level), sample_rate=16000, seed=seed,
            )  # fmt: skip
            write_mixture_folder(folder / str(level), config)
        items[level] = read_mixture_folder(folder / str(level))
    return items


def stage_file(run: Path, number: int) -> Path:
    return run / f"stage-{number}.safetensors"


def last_stage_file(run: Path) -> Path:
    """The model as the run's last stage that has ended left it."""
    return max(run.glob("stage-*.safetensors"), key=lambda file: int(file.stem.removeprefix("stage-")))


def true_label(system: LocalExperts, item: MixtureItem, spectra: Spectra) -> int:
    gender = item.details.get("gender_1", "unknown")
    known = MixtureBatch(
        torch.zeros(1, 1),
        torch.zeros(1, 1, 1),
        torch.ones(1, 1, dtype=torch.bool),
        snr=torch.tensor([float(item.details["snr_db"])]),
        gender=torch.tensor([GENDERS.index(gender)]),
    )
    return int(system.labels(known, spectra)[0])


@torch.inference_mode()
def score(system: DenoisingSystem, items: dict[int, list[MixtureItem]], *, oracle: bool = False) -> Scored:
    """Every mixture by itself: the gate chooses once."""
    size = len(system.experts)
    confusion = np.zeros((size, size), dtype=int)
    scores: dict[int, list[float]] = {}
    choices: dict[int, list[int]] = {}
    for level, group in items.items():
        scores[level], choices[level] = [], []
        for item in group:
            mixture, clean, _ = read_item(item)
            spectra = system.frontend(torch.from_numpy(mixture)[None])
            features, magnitude, _ = system.with_prelude(spectra)
            chosen = 0
            if isinstance(system, LocalExperts):
                label = true_label(system, item, spectra)
                chosen = int(system.score(features, magnitude).argmax())
                if label >= 0 and level in LEVELS:
                    confusion[label, chosen] += 1
                if label >= 0 and oracle:
                    chosen = label
            mask = torch.sigmoid(system.experts[chosen](features)[:, system.prelude_frames :]).unsqueeze(1)
            estimate = system.frontend.stft.synthesise(apply_masks(spectra.spectrum, mask), len(mixture))
            reference = torch.from_numpy(clean[0])
            before, after = si_sdr(torch.from_numpy(mixture), reference), si_sdr(estimate[0, 0], reference)
            scores[level].append(float(after - before))
            choices[level].append(chosen)
    return Scored(scores, choices, confusion)


def scored_once(
    system: DenoisingSystem,
    path: Path,
    items: dict[int, list[MixtureItem]],
    folder: Path,
    *,
    oracle: bool = False,
) -> Scored:
    """As :func:`score`, from ``folder`` if the model file ``path`` was scored before."""
    record = folder / f"{file_hash(path)}{'-true-choice' if oracle else ''}.json"
    kept = json.loads(record.read_text()) if record.is_file() else {}
    if set(kept.get("choices", {})) != {str(level) for level in items}:
        scored = score(system, items, oracle=oracle)
        kept = {
            "scores": {str(level): values for level, values in scored.scores.items()},
            "choices": {str(level): values for level, values in scored.choices.items()},
            "confusion": scored.confusion.tolist(),
        }
        folder.mkdir(exist_ok=True)
        record.write_text(json.dumps(kept))
    scores, choices = ({int(level): v for level, v in kept[key].items()} for key in ("scores", "choices"))
    return Scored(scores, choices, np.array(kept["confusion"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--count", type=int, default=300, help="mixtures for each input SNR, where OUT has none yet"
    )
    parser.add_argument("--seed", type=int, default=1, help="other mixtures of the same speakers and noises")
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    items = mixtures(arguments.corpus, arguments.output / "mixtures", arguments.count, arguments.seed)
    curves: list[Curve] = []
    confusions: dict[str, np.ndarray] = {}
    records = arguments.output / "scores"
    seconds = [float(item.details["seconds"]) for level in LEVELS for item in items[level]]
    for run in arguments.runs:
        recipe = json.loads((run / "recipe.json").read_text())
        parts = [stage["part"] for stage in recipe["stages"]]
        heard = ", microphones" if recipe["mixing"].get("microphone") else ""
        heard += ", prelude" if recipe["system"].get("prelude_seconds") else ""
        file = last_stage_file(run)
        last = load_system(file)
        assert isinstance(last, DenoisingSystem)
        scored = scored_once(last, file, items, records)
        macs = scored.macs(last, seconds)
        network = last.config.network
        size = f"{network.hidden_size}x{network.layers}"
        if not isinstance(last, LocalExperts):
            curves.append(Curve(size, f"generalist{heard}", "generalist", macs, scored.scores))
            print(curves[-1].row(), flush=True)
            continue
        sizes = last.config.gate
        own = "" if isinstance(sizes, LstmConfig) else ", a specialist as gate"
        latent = last.config.latent + heard + own
        gate = (
            f"{latent} gate {sizes.hidden_size}x{sizes.layers}"
            if isinstance(sizes, LstmConfig)
            else f"{latent} {size}"
        )
        if set(parts) == {"gate"}:
            confusions[gate] = scored.confusion
            continue
        if "all" in parts:
            apart = stage_file(run, parts.index("all"))
            naive = load_system(apart)
            assert isinstance(naive, LocalExperts)
            oracle = scored_once(naive, apart, items, records, oracle=True)
            alone = oracle.macs(naive, seconds, gate=False)
            curves.append(Curve(size, latent, "true choice", alone, oracle.scores))
            by_gate = scored_once(naive, apart, items, records)
            curves.append(Curve(size, latent, "naive", by_gate.macs(naive, seconds), by_gate.scores))
            confusions[gate] = by_gate.confusion
        choice = next((c for part, c in CHOICES.items() if part in parts), "naive")
        curves.append(Curve(size, latent, choice, macs, scored.scores))
        confusions[f"{gate}, {choice}"] = scored.confusion
        print(curves[-1].row(), flush=True)
    report(arguments.output, curves, confusions)


def draw_curves(curves: list[Curve]) -> Figure:
    """A colour for what the specialists divide by, a line and a marker for how one of them is chosen."""
    colours = {latent: f"C{k}" for k, latent in enumerate(dict.fromkeys(c.latent for c in curves))}
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for family in dict.fromkeys(curve.family for curve in curves):
        members = sorted((c for c in curves if c.family == family), key=lambda curve: curve.macs)
        line, marker = STYLES[members[0].choice]
        style = {"color": colours[members[0].latent], "linestyle": line, "marker": marker}
        left.semilogx([c.macs for c in members], [c.mean() for c in members], label=family, **style)
        for curve in members:
            means = [float(np.mean(curve.scores[level])) for level in LEVELS]
            right.plot(LEVELS, means, linewidth=0.5 + curve.macs**0.15, **style)
    ticks: list[int] = []
    for macs in sorted({round(curve.macs) for curve in curves}):
        if not ticks or macs > 1.1 * ticks[-1]:  # Labels would overlap.
            ticks.append(macs)
    left.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    left.set_xticks([], minor=True)
    left.set(xlabel="million multiply-accumulates a second", ylabel="SI-SDR improvement (dB)")
    right.set(xlabel="input SNR (dB)", ylabel="SI-SDR improvement (dB)", xticks=LEVELS)
    right.set_title("thicker lines: more arithmetic", fontsize=8)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def report(output: Path, curves: list[Curve], confusions: dict[str, np.ndarray]) -> None:
    print(f"\n{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}\n")
    print(
        "| system | MMAC/s | -5 dB | 0 dB | 5 dB | 10 dB | 30 dB | mean (95 %) | made worse | against the last RUN |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    last = curves[-1] if curves else None
    for curve in sorted(curves, key=lambda curve: (curve.family, curve.macs)):
        print(curve.row(last))
    print("\n| gate | right | rows: true, columns: chosen |\n| --- | --- | --- |")
    for name, matrix in confusions.items():
        print(f"| {name} | {np.trace(matrix) / matrix.sum():.1%} | {matrix.tolist()} |")
    (output / "figure2.json").write_text(
        json.dumps(
            {
                "curves": {c.name: {"macs": c.macs, "scores": c.scores} for c in curves},
                "confusions": {name: matrix.tolist() for name, matrix in confusions.items()},
            }
        )
    )
    draw_curves(curves).savefig(output / "figure2a.png", dpi=120)
    if not confusions:
        return
    columns = min(4, len(confusions))
    rows = -(-len(confusions) // columns)
    figure = Figure(figsize=(3 * columns, 3.2 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for (name, matrix), axes in zip(confusions.items(), places, strict=False):
        axes.imshow(matrix / matrix.sum(axis=1, keepdims=True).clip(1), vmin=0, vmax=1, cmap="Blues")
        axes.set(title=f"{name}\n{np.trace(matrix) / matrix.sum():.0%} right", xlabel="chosen", ylabel="true")
        axes.title.set_fontsize(8)
    for axes in list(places):
        axes.set_visible(False)
    figure.savefig(output / "figure2b.png", dpi=100)


if __name__ == "__main__":
    main()
