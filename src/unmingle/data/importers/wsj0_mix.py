"""WSJ0-2mix, WSJ0-3mix and WHAM! in the layout of their scripts: ``wav8k/min/tt/{mix,s1,s2}``.

WHAM! has ``mix_clean`` instead of ``mix``, with the same file names.
"""

from __future__ import annotations

import re
from pathlib import Path

from unmingle.data.importers.base import Importer, Index, Speaker, find_above
from unmingle.data.importers.mixtures import index_mixtures
from unmingle.data.importers.wsj0 import read_spkrinfo
from unmingle.data.mixture_folders import MixtureItem
from unmingle.errors import UnmingleError

_TITLE = "WSJ0-mix"
_UTTERANCE = re.compile(r"([0-9a-z]{3})[0-9a-z]{5}")


def _index(root: Path) -> Index:
    info = find_above(root, "spkrinfo.txt", "wsj0-train-spkrinfo.txt")
    genders = read_spkrinfo(info) if info else {}

    def speakers(item: MixtureItem) -> list[Speaker]:
        # 01aa010k_1.3053_01po0310_-1.3053: the gain of every source follows its name.
        found = [_UTTERANCE.fullmatch(part.lower()) for part in item.name.split("_")[::2]]
        names = [match[1] for match in found if match]
        if len(names) != len(item.sources):
            raise UnmingleError(
                f"{item.mixture} is not named like a mixture of WSJ0-mix "
                "(01aa010k_1.3053_01po0310_-1.3053.wav); is this folder another corpus?"
            )
        return [Speaker("wsj0", name, genders.get(name, "unknown")) for name in names]

    notes = [] if info else ["There is no spkrinfo.txt in or above it: genders are unknown."]
    return index_mixtures(root, _TITLE, ("tr", "cv", "tt"), speakers, notes)


WSJ0_MIX = Importer(
    name="wsj0-mix",
    title="WSJ0-2mix, WSJ0-3mix, WHAM!",
    what="mixtures",
    licence="LDC User Agreement; WHAM!'s noise CC BY-NC 4.0",
    homepage="http://wham.whisper.ai",
    read=_index,
    no_fetch=(
        "These mixtures are made from WSJ0, which the LDC licenses, and cannot be fetched; make them in DIR with the "
        "scripts of http://wham.whisper.ai or of WSJ0-mix, and then run: "
        "unmingle data index wsj0-mix --root DIR"
    ),
)
