"""Judge a denoiser's recipe by speech and noise that training never heard: leave one corpus of each out in turn.

    python benchmarks/leave_one_out.py RECIPE.yaml --data CORPUS -o OUT [--small] [--minutes M]

CORPUS holds speech.csv and noise.csv. Fold k trains RECIPE without the k-th corpus of speech and the k-th of noise,
in OUT/LABEL/fold-k; a fold that is done is not trained again, one that was stopped goes on. The k-th list of mixtures
holds just these two corpora, from the validation split, at -5, 0, 5 and 10 dB. Every fold's model is scored on every
list: on its own it is *unheard*, on the others' lists *heard*. Both columns are over the same mixtures, so the
difference is that of hearing the corpora in training, not that of easy and hard ones. Writes OUT/LABEL/table.md.

Choices are compared by running the command once per recipe with the same OUT.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from pathlib import Path

import numpy as np
import torch

from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.examples import Example
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.noise import SYNTHETIC, NoiseConfig
from unmingle.evaluation.scores import score_mixture
from unmingle.evaluation.summary import bootstrap_interval
from unmingle.models import load_system
from unmingle.training.launch import train
from unmingle.training.loop import Options, Report
from unmingle.training.mixtures import open_mixtures
from unmingle.training.recipe import Recipe, read_recipe, shrink

LEVELS = [-5.0, 0.0, 5.0, 10.0]
SECONDS = 5.0

Fold = tuple[str, str]
"""The corpus of speech and the corpus of noise that are left out."""


def choose_folds(recipe: Recipe, speech: list[str], noise: list[str]) -> list[Fold]:
    """Pairs of corpora: those that were named, or the heaviest of the recipe that have a validation split."""
    config = recipe.mixing.noise
    assert config is not None
    names = {utterance.corpus for utterance in read_corpora(recipe.data, "valid")}
    speech = speech or [name for name in recipe.mixing.corpus_weights or sorted(names) if name in names]
    there = {recording.corpus for recording in read_noise(recipe.noise_data, "valid")}
    recorded = {name: weight for name, weight in config.weights.items() if name in there}
    noise = noise or sorted(recorded or there, key=lambda name: (-recorded.get(name, 0.0), name))
    folds = list(zip(speech, noise, strict=False))
    if len(folds) < 2:
        raise SystemExit("At least two corpora of speech and two of noise are needed to leave one out.")
    return folds


def without(recipe: Recipe, fold: Fold) -> Recipe:
    """The recipe without a corpus of speech and one of noise."""
    speech, noise = fold
    mixing = recipe.mixing
    assert mixing.noise is not None
    names = sorted({utterance.corpus for utterance in read_corpora(recipe.data, "train")})
    # A corpus that is not named has weight 1.
    weights = {name: 0.0 if name == speech else mixing.corpus_weights.get(name, 1.0) for name in names}
    noises = sorted({recording.corpus for recording in read_noise(recipe.noise_data, "train")})
    noise_weights = mixing.noise.weights or dict.fromkeys(noises, 1.0)
    changes = {
        "corpus_weights": weights,
        "noise": mixing.noise.model_copy(
            update={"weights": {name: weight for name, weight in noise_weights.items() if name != noise}}
        ),
    }
    if not any(weights.values()):
        raise SystemExit(f"Without {speech} no speech is left.")
    if not set(changes["noise"].weights) - set(SYNTHETIC):  # type: ignore[attr-defined]
        raise SystemExit(f"Without {noise} no recorded noise is left.")
    return recipe.model_copy(update={"mixing": mixing.model_copy(update=changes)})


def train_fold(recipe: Recipe, run: Path, arguments: argparse.Namespace) -> Path:
    """Train one fold, or go on with it; the model's file."""
    done, begun = run / "done", (run / "last.checkpoint").exists()
    if not done.exists():
        torch.manual_seed(recipe.seed)

        def tell(report: Report) -> None:
            if report.progress.step % 50 == 0:
                minutes = report.seconds_left / 60
                print(f"{run.name}: step {report.progress.step}, {minutes:.0f} min left", flush=True)

        train(
            recipe,
            run,
            Options(
                resume=begun, minutes=arguments.minutes, threads=arguments.threads, cache=arguments.cache
            ),
            tell,
        )
        done.touch()
    return run / "last.safetensors"


def mixtures_of(recipe: Recipe, fold: Fold, count: int, cache: Path | None) -> list[Example]:
    """``count`` mixtures of just the two corpora of a fold, from the validation split."""
    speech, noise = fold
    names = {utterance.corpus for utterance in read_corpora(recipe.data, "valid")}
    config = MixingConfig(
        speakers=1,
        corpus_weights={name: float(name == speech) for name in names},
        noise=NoiseConfig(snr_levels=LEVELS, weights={noise: 1.0}, by_class=True),
    )
    rate = recipe.system.sample_rate
    source = open_mixtures(recipe.data, "valid", rate, config, 1, cache, recipe.noise_data)
    return [source.example(k, round(SECONDS * rate)) for k in range(count)]


def score(model: Path, examples: list[Example], metrics: list[str]) -> dict[str, list[float]]:
    """Values by metric: improvements in SI-SDR, and the others as they are."""
    system = load_system(model)
    values: dict[str, list[float]] = {metric: [] for metric in metrics}
    for example in examples:
        estimate = system.separate(torch.from_numpy(example.mixture)[None], 1).sources[0].numpy()
        found = score_mixture(example.mixture, example.sources, estimate, system.sample_rate, metrics)
        for metric in metrics:
            value = found["si_sdr_improvement" if metric == "si_sdr" else metric][0]
            values[metric].append(float("nan") if value is None else value)
    return values


def table(folds: list[Fold], scores: dict[tuple[int, int], dict[str, list[float]]], metric: str) -> str:
    """One row per fold and a last one for all; ``scores`` by (model, list)."""
    lines = [
        f"| left out ({metric}) | heard | unheard | difference (95 %) |",
        "| --- | --- | --- | --- |",
    ]
    every: list[tuple[float, float]] = []
    for number, (speech, noise) in enumerate(folds):
        unheard = np.array(scores[number, number][metric])
        others = [np.array(scores[model, number][metric]) for model in range(len(folds)) if model != number]
        pairs = np.stack([np.mean(others, axis=0), unheard], axis=1)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        every += [(float(heard), float(left)) for heard, left in pairs]
        lines.append(_row(f"{speech} + {noise}", pairs))
    return "\n".join([*lines, _row("all", np.array(every))])


def _row(name: str, pairs: np.ndarray) -> str:
    difference = pairs[:, 1] - pairs[:, 0]
    low, high = bootstrap_interval(difference.tolist())
    heard, unheard = pairs.mean(axis=0)
    return f"| {name} | {heard:.2f} | {unheard:.2f} | {difference.mean():+.2f} ({low:+.2f} to {high:+.2f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", action="append", required=True, help="Corpora: speech.csv and noise.csv.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="The recipe's small variant, in minutes.")
    parser.add_argument("--smoke", action="store_true", help="Two steps of tiny networks: does it run?")
    parser.add_argument("--label", help="Folder in OUT, and name in the table (default: the recipe's).")
    parser.add_argument("--speech", nargs="*", default=[], help="Corpora of speech to leave out in turn.")
    parser.add_argument("--noise", nargs="*", default=[], help="Corpora of noise, in the same order.")
    parser.add_argument("--metric", nargs="*", default=["si_sdr"], help="As in `unmingle evaluate`.")
    parser.add_argument("--count", type=int, default=60, help="Mixtures per list (default: 60).")
    parser.add_argument("--minutes", type=float, help="Stop each fold's training after so many minutes.")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", type=Path, help="Folder for decoded audio.")
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe, small=arguments.small)
    recipe = recipe.model_copy(update={"data": arguments.data, "noise_data": arguments.data})
    recipe = shrink(recipe) if arguments.smoke else recipe
    folds = choose_folds(recipe, arguments.speech, arguments.noise)
    folder = arguments.output / (arguments.label or recipe.name)
    models = [
        train_fold(without(recipe, fold), folder / f"fold-{number}", arguments)
        for number, fold in enumerate(folds, start=1)
    ]
    scores = {}
    for number, fold in enumerate(folds):
        examples = mixtures_of(recipe, fold, arguments.count, arguments.cache)
        for k, model in enumerate(models):
            scores[k, number] = score(model, examples, arguments.metric)
    head = f"{folder.name}: {arguments.recipe}, {arguments.count} mixtures per list of {SECONDS:g} s, "
    head += f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}"
    text = "\n\n".join([head, *(table(folds, scores, metric) for metric in arguments.metric)])
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
