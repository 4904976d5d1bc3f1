"""Mixtures from a corpus in tar files that need not fit on a disk: only some files are decoded at a time.

The files are shuffled anew for every pass. Mixtures are drawn from a window of them, which moves by one file after
every so many mixtures. So mixture k is a pure function of (recipe, seed, k), and a run can go on anywhere.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field
from torch.utils.data import get_worker_info

from unmingle.config import Config
from unmingle.data.cache import JoinedSpeech, default_cache_folder
from unmingle.data.corpora import Utterance
from unmingle.data.examples import Example
from unmingle.data.mixing import Mixer
from unmingle.data.tar_files import SpokenTar, cache_name, open_tar
from unmingle.errors import UnmingleError

_ORDER = 10
"""Names the generator of a pass's order among those of a seed."""

MakeMixer = Callable[[Sequence[Utterance], JoinedSpeech, int], Mixer]
"""A mixer of utterances and their decoded speech, with a seed."""


class StreamConfig(Config):
    """A window over shuffled tar files."""

    tars: int = Field(8, ge=1, le=10_000)
    """Files from which mixtures are drawn at a time; these and the next one are decoded on the disk."""
    mixtures: int = Field(2000, ge=1, le=10**9)
    """After so many mixtures, the window moves by one file."""


class StreamedMixtures:
    """Draws mixtures from a window over tar files.

    In a worker process of a data loader, the next file is decoded in the background.

    Args:
        tars: paths or URLs, see :mod:`~unmingle.data.tar_files`.
        sample_rate: in hertz.
        config: the window.
        seed: of the run.
        make: makes the mixer of a window; it can be pickled.
        cache: folder for decoded files (default: that of the user). Only the files of the
            current window and the next file stay there; those of other runs on the same tar files are removed.
    """

    def __init__(
        self,
        tars: Sequence[str],
        sample_rate: int,
        config: StreamConfig,
        seed: int,
        make: MakeMixer,
        cache: Path | None = None,
    ) -> None:
        self.sample_rate, self.seed = sample_rate, seed
        self._tars, self._config, self._make = list(tars), config, make
        digest = hashlib.sha256("\n".join(tars).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._folder = (cache or default_cache_folder()) / f"stream-{sample_rate}-{digest}"
        self._opened: dict[str, SpokenTar] = {}
        self._coming: _Opening | None = None
        self._mixer: Mixer | None = None
        self._place: tuple[int, int] | None = None

    def example(self, index: int, samples: int) -> Example:
        """Crop ``index`` of the run, of a fixed length."""
        place = (index // self._config.mixtures, self.seed)
        if self._mixer is None or self._place != place:
            self._move(place[0])
            self._place = place
        assert self._mixer is not None
        return self._mixer.example(index, samples)

    def window(self, number: int) -> list[str]:
        """The tar files of window ``number``."""
        count, size = len(self._tars), self._config.tars
        if count <= size:
            return self._tars
        places = range(number, number + size)
        orders = {each: self._order(each) for each in {place // count for place in places}}
        # At the border of two passes, a file may stand in both.
        return list(dict.fromkeys(orders[place // count][place % count] for place in places))

    def _order(self, turn: int) -> list[str]:
        rng = np.random.default_rng([self.seed, turn, _ORDER])
        return [self._tars[index] for index in rng.permutation(len(self._tars))]

    def _move(self, number: int) -> None:
        wanted, following = self.window(number), self.window(number + 1)
        coming, self._coming = self._coming, None
        if coming is not None and coming.tar in wanted:
            self._opened[coming.tar] = coming.take()
        self._mixer = None  # It holds what is dropped now.
        self._opened = {tar: self._opened[tar] for tar in wanted if tar in self._opened}
        self._remove_all_but([*wanted, *following])
        for tar in wanted:
            if tar not in self._opened:
                self._opened[tar] = open_tar(tar, self.sample_rate, self._folder)
        parts = [self._opened[tar] for tar in wanted]
        utterances = [utterance for part in parts for utterance in part.utterances]
        self._mixer = self._make(utterances, JoinedSpeech([part.speech for part in parts]), self.seed)
        new = [tar for tar in following if tar not in wanted]
        # Elsewhere no thread may run: a process that forks must have none.
        if new and get_worker_info() is not None:
            self._coming = _Opening(new[0], self.sample_rate, self._folder)

    def _remove_all_but(self, tars: Sequence[str]) -> None:
        """Remove decoded files; processes that have them open read on."""
        kept = {cache_name(tar) for tar in tars}
        for path in self._folder.glob("[!.]*"):
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


class _Opening:
    """A tar file that is decoded and opened in the background."""

    def __init__(self, tar: str, sample_rate: int, folder: Path) -> None:
        self.tar = tar
        self._given = (tar, sample_rate, folder)
        self._found: SpokenTar | Exception | None = None
        # A daemon: the end of the process does not wait for it, and what it leaves half-done has a temporary name.
        self._thread = threading.Thread(target=self._open, daemon=True)
        self._thread.start()

    def _open(self) -> None:
        try:
            self._found = open_tar(*self._given)
        except Exception as error:
            self._found = error

    def take(self) -> SpokenTar:
        """The file, when it is open.

        Raises:
            UnmingleError: it cannot be opened.
        """
        self._thread.join()
        if isinstance(self._found, Exception):
            raise self._found
        assert self._found is not None
        return self._found


def check_speakers(utterances: Sequence[Utterance], needed: int) -> None:
    """Refuse a window that has too few speakers.

    Raises:
        UnmingleError: it has.
    """
    there = len({(utterance.corpus, utterance.speaker) for utterance in utterances})
    if there < needed:
        raise UnmingleError(
            f"Tar files that are mixed together have {there} speakers, but {needed} are mixed; shuffle the "
            "utterances before you pack them, or raise stream.tars in the recipe."
        )
