"""Libri2Mix and Libri3Mix in the layout of their scripts: ``Libri2Mix/wav8k/min/test/{mix_clean,s1,s2}``."""

from __future__ import annotations

import re
from pathlib import Path

from unmingle.data.importers.base import Importer, Index, Speaker
from unmingle.data.importers.librispeech import find_genders
from unmingle.data.importers.mixtures import index_mixtures
from unmingle.data.mixture_folders import MixtureItem
from unmingle.errors import UnmingleError

_TITLE = "LibriMix"
_SPLITS = ("train-360", "train-100", "dev", "test")
_UTTERANCE = re.compile(r"(\d+)-\d+-\d+")


def _index(root: Path) -> Index:
    genders = find_genders(root)

    def speakers(item: MixtureItem) -> list[Speaker]:
        # 4077-13754-0001_5142-33396-0065: speaker, chapter and number of every source.
        found = [match for part in item.name.split("_") if (match := _UTTERANCE.fullmatch(part))]
        if len(found) != len(item.sources):
            raise UnmingleError(
                f"{item.mixture} is not named like a mixture of LibriMix (4077-13754-0001_5142-33396-0065.wav); "
                "is this folder another corpus?"
            )
        names = [match[1] for match in found]
        return [Speaker("librispeech", name, (genders or {}).get(name, "unknown")) for name in names]

    notes = [] if genders else ["There is no LibriSpeech/SPEAKERS.TXT in or above it: genders are unknown."]
    return index_mixtures(root, _TITLE, _SPLITS, speakers, notes)


LIBRIMIX = Importer(
    name="librimix",
    title=_TITLE,
    what="mixtures",
    licence="CC BY 4.0; with its noise CC BY-NC 4.0",
    homepage="https://github.com/JorisCos/LibriMix",
    read=_index,
    no_fetch=(
        "LibriMix is made by its scripts from LibriSpeech and WHAM! noise; run the scripts of "
        "https://github.com/JorisCos/LibriMix with DIR as storage_dir, and then: "
        "unmingle data index librimix --root DIR"
    ),
)
