"""What is heard in the windows of a recording. The voices are in its temporary file until they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from unmingle.separation.voice_clusters import Heard
from unmingle.separation.window_store import Kept, WindowStore


class StoredVoices(Sequence[Heard]):
    """A sequence of :class:`Heard`. Each access reads the voices of one window.

    Args:
        store: the temporary file.
    """

    def __init__(self, store: WindowStore) -> None:
        self._store = store
        self._windows: list[tuple[Heard, Kept, Kept]] = []

    def append(self, heard: Heard) -> None:
        """Add a window.

        Raises:
            UnmingleError: the disk of the temporary folder is full.
        """
        none = np.zeros(0, dtype=np.float16)
        voices, mixed = self._store.keep(heard.voices), self._store.keep(heard.mixed)
        self._windows.append((replace(heard, voices=none, mixed=none), voices, mixed))

    def __len__(self) -> int:
        return len(self._windows)

    @overload
    def __getitem__(self, index: int) -> Heard: ...
    @overload
    def __getitem__(self, index: slice) -> list[Heard]: ...
    def __getitem__(self, index: int | slice) -> Heard | list[Heard]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        heard, voices, mixed = self._windows[index]
        return replace(heard, voices=self._store.load(voices), mixed=self._store.load(mixed))
