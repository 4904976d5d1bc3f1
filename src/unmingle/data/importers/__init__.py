"""Importers of public corpora, by name."""

from __future__ import annotations

from unmingle.data.importers.base import Importer, Index
from unmingle.data.importers.common_voice import COMMON_VOICE
from unmingle.data.importers.folder import FOLDER
from unmingle.data.importers.librimix import LIBRIMIX
from unmingle.data.importers.librispeech import LIBRISPEECH
from unmingle.data.importers.musan import MUSAN, MUSAN_BY_SOURCE
from unmingle.data.importers.realtalklibri import REALTALKLIBRI
from unmingle.data.importers.vctk import VCTK
from unmingle.data.importers.wham_noise import WHAM_NOISE
from unmingle.data.importers.wsj0 import WSJ0
from unmingle.data.importers.wsj0_mix import WSJ0_MIX
from unmingle.errors import UnmingleError

__all__ = ["IMPORTERS", "Importer", "Index", "find_importer"]

IMPORTERS: dict[str, Importer] = {
    importer.name: importer
    for importer in (
        LIBRISPEECH, VCTK, COMMON_VOICE, WSJ0, FOLDER,
        MUSAN, MUSAN_BY_SOURCE, WHAM_NOISE,
        LIBRIMIX, WSJ0_MIX, REALTALKLIBRI,
    )
}  # fmt: skip


def find_importer(name: str) -> Importer:
    """The importer of a corpus.

    Raises:
        UnmingleError: there is none of that name.
    """
    if name not in IMPORTERS:
        raise UnmingleError(f"There is no corpus {name!r}; choose one of {', '.join(IMPORTERS)}.")
    return IMPORTERS[name]
