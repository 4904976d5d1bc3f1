"""Training crops from existing mixtures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from unmingle.data.examples import active_sources
from unmingle.data.mixture_folders import read_item, read_mixture_folder
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.data.premixed import PremixedMixtures, is_premixed
from unmingle.errors import UnmingleError


def _premixed(corpus: Path, folder: Path) -> Path:
    """A folder in the layout of WSJ0-2mix: tr/ and cv/ with mix/, s1/, s2/."""
    for name, split in (("tr", "train"), ("cv", "valid")):
        config = MixtureFolderConfig(corpora=[str(corpus)], split=split, count=3, seed=1)
        write_mixture_folder(folder / name, config)
    return folder


def test_crops_of_mixtures_made_before(example_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "2speakers").mkdir()
    folder = _premixed(example_corpus, tmp_path / "2speakers")
    assert is_premixed(folder)
    assert not is_premixed(folder / "tr")
    mixtures = PremixedMixtures([folder], "train", 8000, 2, seed=5)
    originals = [read_item(item)[1] for item in read_mixture_folder(folder / "tr")]
    for index in range(6):
        crop = mixtures.example(index, 4000).sources
        assert crop.shape == (2, 4000)
        np.testing.assert_array_equal(crop, mixtures.example(index, 4000).sources)
        assert any(
            (np.lib.stride_tricks.sliding_window_view(whole[0], 4000) == crop[0]).all(axis=1).any()
            for whole in originals
        )
    long = mixtures.example(0, 10**6).sources
    assert np.abs(long[:, -1000:]).max() == 0
    with_a_third = PremixedMixtures([folder], "train", 8000, 3, 0).render(mixtures.crop(0, 100)).sources
    np.testing.assert_array_equal(with_a_third[:2], mixtures.example(0, 100).sources)
    np.testing.assert_array_equal(with_a_third[2], np.zeros(100))


def test_mixtures_made_before_are_checked(example_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "2speakers").mkdir()
    folder = _premixed(example_corpus, tmp_path / "2speakers")
    with pytest.raises(UnmingleError, match="tt"):
        PremixedMixtures([folder], "test", 8000, 2, 0)
    with pytest.raises(UnmingleError, match="2 sources"):
        PremixedMixtures([folder], "train", 8000, 1, 0)
    other = PremixedMixtures([folder], "train", 16000, 2, 0)
    with pytest.raises(UnmingleError, match="8000 Hz"):
        other.render(other.crop(0, 100))


def _tones(folder: Path, mixtures: dict[str, int]) -> Path:
    """Mixtures ``tr/`` and ``cv/`` with the given numbers of tones; mixtures with fewer lack the last references."""
    time = np.arange(8000) / 8000
    for split in ("tr", "cv"):
        for name, count in mixtures.items():
            tones = [0.1 * np.sin(2 * np.pi * 100 * 2**k * time).astype(np.float32) for k in range(count)]
            for place, samples in {
                "mix": sum(tones),
                **{f"s{k + 1}": t for k, t in enumerate(tones)},
            }.items():
                (folder / split / place).mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / split / place / f"{name}.wav", samples, 8000)
    return folder


def _counts(mixtures: PremixedMixtures) -> list[int]:
    examples = [mixtures.example(k, 4000) for k in range(40)]
    assert all(example.sources.shape == (3, 4000) for example in examples)
    return [int(active_sources(example).sum()) for example in examples]


def test_folders_of_two_and_of_three_speakers_train_together(tmp_path: Path) -> None:
    """Each number is drawn equally often, for separate folders and for one folder with both numbers."""
    two = _tones(tmp_path / "2", {f"a{k}": 2 for k in range(9)})
    three = _tones(tmp_path / "3", {"b": 3})
    both = _tones(tmp_path / "both", {f"a{k}": 2 for k in range(9)} | {"b": 3})
    for folders in ([two, three], [three, two], [both]):
        counts = _counts(PremixedMixtures(folders, "train", 8000, 3, 0, fewest=2))
        assert 10 <= counts.count(2) <= 30
        assert counts.count(2) + counts.count(3) == 40
        assert set(_counts(PremixedMixtures(folders, "valid", 8000, 3, 0, fewest=3))) == {3}
    with pytest.raises(UnmingleError, match="or set fewest_speakers in the recipe"):
        PremixedMixtures([two, three], "train", 8000, 3, 0)
    with pytest.raises(UnmingleError, match="have 3: add --data with 2 speakers"):
        PremixedMixtures([three], "train", 8000, 3, 0, fewest=2)
    with pytest.raises(UnmingleError, match="no reference"):
        PremixedMixtures([both], "train", 8000, 3, 0)
