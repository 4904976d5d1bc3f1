"""Training batches: crops that a worker process draws and renders while the model computes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unmingle.batch import MixtureBatch
from unmingle.data.examples import SNR_LIMIT, Example, active_sources, gender_index
from unmingle.errors import UnmingleError


class MixtureSource(Protocol):
    """A source of crops: :class:`~unmingle.data.mixing.Mixer`, or existing mixtures."""

    sample_rate: int
    seed: int

    def example(self, index: int, samples: int) -> Example:
        """Crop ``index`` of the run, of a fixed length."""


class Crops(Dataset[MixtureBatch]):
    """Batch k contains the mixtures from k * batch_size to (k + 1) * batch_size - 1 of the run.

    Args:
        mixer: source of the crops.
        seconds: length of each crop.
        batch_size: mixtures in a batch, over all processes.
        first_batch: first batch of a resumed run.
        batches: total number of batches, counted from batch 0.
        rank: number of this process. It renders its share of every batch.
        world_size: number of processes.
    """

    def __init__(
        self,
        mixer: MixtureSource,
        seconds: float,
        batch_size: int,
        *,
        first_batch: int = 0,
        batches: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._mixer = mixer
        self._samples = round(seconds * mixer.sample_rate)
        self._batch_size, self._first, self._batches = batch_size, first_batch, batches
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return max(0, self._batches - self._first)

    def __getitem__(self, index: int) -> MixtureBatch:
        if index >= len(self):
            raise IndexError(index)
        start = (self._first + index) * self._batch_size
        numbers = range(start + self._rank, start + self._batch_size, self._world_size)
        return as_batch([self._mixer.example(k, self._samples) for k in numbers])


class _BatchesOrErrors(Dataset[MixtureBatch | UnmingleError]):
    """Crops that return errors instead of raising them, because a worker process would add its own traceback."""

    def __init__(self, crops: Crops) -> None:
        self._crops = crops

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> MixtureBatch | UnmingleError:
        try:
            return self._crops[index]
        except UnmingleError as error:
            return UnmingleError(str(error))


def as_batch(examples: Sequence[Example]) -> MixtureBatch:
    """Examples of the same length and number of sources as a batch."""
    noisy = any(example.snr is not None for example in examples)
    snrs = [SNR_LIMIT if example.snr is None else example.snr for example in examples]
    return MixtureBatch(
        mixture=torch.from_numpy(np.stack([example.mixture for example in examples])),
        sources=torch.from_numpy(np.stack([example.sources for example in examples])),
        active=torch.from_numpy(np.stack([active_sources(example) for example in examples])),
        snr=torch.tensor(snrs) if noisy else None,
        gender=torch.tensor([gender_index(example) for example in examples]),
    )


def iterate(crops: Crops, workers: int = 1) -> Iterator[MixtureBatch]:
    """The batches in order. Worker processes prepare them ahead; with ``workers`` 0, this process does."""
    loader: DataLoader[MixtureBatch | UnmingleError] = DataLoader(
        _BatchesOrErrors(crops),
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        # Else the workers of a process that a server of forks started would load all libraries again.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # Its own generator: by default a loader draws from the global one, and a resumed run has one more loader.
        generator=torch.Generator(),
    )
    for answer in loader:
        if isinstance(answer, UnmingleError):
            raise answer
        yield answer
