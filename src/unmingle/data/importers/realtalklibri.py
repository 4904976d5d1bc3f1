"""RealTalkLibri (Mobin et al. 2018): LibriSpeech played by loudspeakers in a room, one and two at a time, 8 kHz WAV.

The layout is that of the authors' loader (rtl_loader.py in github.com/ShariqM/source_separation):

    RTL/extracted_7/libri/FOLDER/2_701_*mixed*.wav      the recorded mixture
    RTL/extracted_7/libri/FOLDER/2_701_*.wav            the two speakers of it, alone

``index`` links or copies the files into ``mixtures/test/{mix,s1,s2}`` and ``mixtures/train/{mix,s1,s2}``. If such
folders exist already, in ``mixtures`` or in the root, they are used as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from unmingle.data.importers.base import Importer, Index, Speaker, incomplete, not_found
from unmingle.data.importers.mixtures import index_mixtures
from unmingle.errors import UnmingleError
from unmingle.temporary import refusal, temporary_folder

_TITLE = "RealTalkLibri"
_SPLITS = ("train", "test")
_TEST = ("7", "16")
"""The numbers N of the recordings ``extracted_N`` in the authors' test set; the others are for training."""


def _index(root: Path) -> Index:
    homes = (root, root / "mixtures")
    if not any((home / split / "mix").is_dir() for home in homes for split in _SPLITS):
        _arrange(root)
    return index_mixtures(
        root,
        _TITLE,
        _SPLITS,
        lambda item: [Speaker("realtalklibri") for _ in item.sources],
        ["The speakers and their genders are unknown: the files do not name them."],
    )


def _arrange(root: Path) -> None:
    """Make ``mixtures/``. The folder appears when it is complete."""
    mixtures = [
        path
        for above in ("", "RTL/", "data/RTL/")
        for path in sorted(root.glob(f"{above}extracted_*/libri/*/*mixed*"))
        if path.is_file()
    ]
    if not mixtures:
        wanted = ("RTL/extracted_N/libri/FOLDER/*mixed*.wav", "test/mix, test/s1 and test/s2")
        raise not_found(root, _TITLE, *wanted)
    try:
        with temporary_folder(root / "mixtures") as partial:
            names: set[str] = set()
            for mixture in mixtures:
                number = mixture.parents[2].name.removeprefix("extracted_")
                name = "_".join([number, mixture.parent.name, *mixture.name.split("_")[:2]]) + mixture.suffix
                if name in names:
                    raise UnmingleError(
                        f"{mixture.parent} has two mixtures of the same number ({name}); leave one of them out."
                    )
                names.add(name)
                files = (mixture, *_sources(root, mixture))
                for folder, path in zip(("mix", "s1", "s2"), files, strict=True):
                    _link(path, partial / ("test" if number in _TEST else "train") / folder / name)
            partial.rename(root / "mixtures")
    except OSError as error:
        raise refusal(root, error) from error


def _sources(root: Path, mixture: Path) -> list[Path]:
    """The two recordings with the same number, which is the first two parts of the name."""
    prefix = "_".join(mixture.name.split("_")[:2])
    paths = sorted(path for path in mixture.parent.iterdir() if path.name.startswith(f"{prefix}_"))
    sources = [path for path in paths if "mixed" not in path.name]
    if len(sources) != 2:
        raise incomplete(root, _TITLE, f"a speaker of {mixture.relative_to(root)}")
    return sources


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # Another disk, or a file system without hard links.
        shutil.copyfile(source, target)


REALTALKLIBRI = Importer(
    name="realtalklibri",
    title=_TITLE,
    what="mixtures",
    licence="none given; its speech is LibriSpeech's",
    homepage="https://github.com/ShariqM/source_separation",
    read=_index,
    no_fetch=(
        "RealTalkLibri has no permanent address and no licence; get rtl.tar.gz from its authors "
        "(https://github.com/ShariqM/source_separation), unpack it into DIR, and run: "
        "unmingle data index realtalklibri --root DIR"
    ),
)
