"""Training data of the speaker encoder and the activity network: mixtures that a system has separated.

    python -m unmingle.training.separated_recordings RECIPE --data CORPUS -o FOLDER

The recordings are mixed as RECIPE says, from the training split. A file has 1.9 to 3.1 MB.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmingle.audio import Samples
from unmingle.errors import UnmingleError
from unmingle.models import load_system
from unmingle.separation.fine_masks import FineMasks
from unmingle.systems import EmbeddingSeparator, MaskingSystem
from unmingle.temporary import replace_files
from unmingle.training.mixtures import open_mixtures
from unmingle.training.recipe import Recipe, read_recipe

_SECONDS = 32.0
"""Length of a recording: one window of :mod:`unmingle.separation.windows`."""
_FULL_SCALE, _FULL_MASK = 32767, 255


@dataclass(frozen=True)
class SeparatedRecording:
    """A mixture, its sources, and how a system separates it."""

    mixture: Tensor
    """``(samples,)``"""
    sources: Tensor
    """``(speakers, samples)``"""
    masks: Tensor
    """``(estimates, frames, freqs)``"""


def separate_recordings(recipe: Recipe, system: MaskingSystem, folder: Path, counts: dict[int, int]) -> None:
    """Mix recordings of the training split, separate them, and write a file for each to ``folder``.

    Recordings that are already there stay.

    Args:
        recipe: its ``data`` and ``mixing``.
        system: separates.
        folder: gets the files.
        counts: by number of speakers, how many recordings.

    Raises:
        UnmingleError: the data are missing or malformed.
    """
    for speakers, count in counts.items():
        mixing = recipe.mixing.model_copy(update={"speakers": speakers, "fewest_speakers": None})
        rate, seed = system.sample_rate, recipe.seed + speakers
        mixtures = open_mixtures(
            recipe.data, "train", rate, mixing, seed, None, recipe.noise_data, recipe.stream
        )
        for index in range(count):
            path = folder / f"{speakers}-{index}.npz"
            if not path.exists():
                example = mixtures.example(index, round(_SECONDS * rate))
                replace_files([(path, _separated(system, example.mixture, example.sources))])


@torch.inference_mode()
def _separated(system: MaskingSystem, mixture: Samples, sources: Samples) -> memoryview:
    peak = max(float(np.abs(mixture).max()), float(np.abs(sources).max()), 1e-9)
    mixture, sources = mixture / peak, sources / peak
    masks = FineMasks(system).of(torch.from_numpy(mixture), system.speakers).masks
    content = io.BytesIO()
    np.savez(
        content,
        mixture=np.round(mixture * _FULL_SCALE).astype(np.int16),
        sources=np.round(sources * _FULL_SCALE).astype(np.int16),
        masks=np.round(masks.numpy() * _FULL_MASK).astype(np.uint8),
    )
    return content.getbuffer()


def recordings_of(folder: Path) -> dict[int, list[Path]]:
    """The recordings of a folder by their number of speakers.

    Raises:
        UnmingleError: there are none.
    """
    paths: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*-*.npz")):
        paths.setdefault(int(path.name.split("-")[0]), []).append(path)
    if not paths:
        raise UnmingleError(
            f"{folder} has no separated recordings; make them with python -m unmingle.training.separated_recordings."
        )
    return paths


def read_separated(path: Path) -> SeparatedRecording:
    """A recording of :func:`separate_recordings`."""
    with np.load(path) as data:
        stored = {name: torch.from_numpy(data[name]).float() for name in ("mixture", "sources", "masks")}
    return SeparatedRecording(
        stored["mixture"] / _FULL_SCALE, stored["sources"] / _FULL_SCALE, stored["masks"] / _FULL_MASK
    )


def separator(name: str) -> EmbeddingSeparator:
    """The system ``name``.

    Raises:
        UnmingleError: there is no such system, or it does not separate speakers.
    """
    system = load_system(name)
    if not isinstance(system, EmbeddingSeparator):
        raise UnmingleError(f"{name} is not an embedding separator; name one with --model.")
    return system


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", action="append", metavar="CORPUS", help="In place of the recipe's.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="adanet-2speakers-8khz", help="Separates the recordings.")
    parser.add_argument("--two", type=int, default=3000, help="Number of recordings of two speakers.")
    parser.add_argument("--three", type=int, default=500, help="Number of recordings of three speakers.")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        system, recipe = separator(arguments.model), read_recipe(arguments.recipe)
        if arguments.data:
            recipe = recipe.model_copy(update={"data": arguments.data})
        arguments.output.mkdir(parents=True, exist_ok=True)
        separate_recordings(recipe, system, arguments.output, {2: arguments.two, 3: arguments.three})
    except UnmingleError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
