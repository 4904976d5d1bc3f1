"""Folders of mixtures are read back, and malformed ones refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unmingle.data.mixture_folders import read_item, read_mixture_folder
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.errors import UnmingleError


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_written_folder_is_read_back_and_repeats_byte_by_byte(
    example_corpus: Path, tmp_path: Path, mode: str
) -> None:
    config = MixtureFolderConfig(corpora=[str(example_corpus)], split="test", count=4, mode=mode, seed=3)
    for name in ("one", "two"):
        write_mixture_folder(tmp_path / name, config)
    items = read_mixture_folder(tmp_path / "one")
    assert len(items) == 4
    for item, twin in zip(items, read_mixture_folder(tmp_path / "two"), strict=True):
        assert item.mixture.read_bytes() == twin.mixture.read_bytes()
        mixture, sources, rate = read_item(item)
        assert rate == 8000
        np.testing.assert_allclose(sources.sum(axis=0), mixture, atol=1e-6)
        assert item.gender_pair == "different"
        if mode == "min":
            assert (np.abs(sources[:, -2000:]).max(axis=1) > 0).all()
    rows = list(csv.DictReader((tmp_path / "one" / "mixtures.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == [item.name for item in items]
    assert all(0 <= float(row["snr_db"]) <= 5 for row in rows)
    with pytest.raises(UnmingleError, match="not empty"):
        write_mixture_folder(tmp_path / "one", config)


def test_malformed_mixture_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnmingleError, match="does not exist"):
        read_mixture_folder(tmp_path / "none")
    with pytest.raises(UnmingleError, match="mix/"):
        read_mixture_folder(tmp_path)
    for name in ("mix_clean", "s1", "s2"):
        (tmp_path / name).mkdir()
    with pytest.raises(UnmingleError, match="is empty"):
        read_mixture_folder(tmp_path)
    for name in ("mix_clean", "s1"):
        soundfile.write(tmp_path / name / "a.wav", np.zeros(100), 8000)
    with pytest.raises(UnmingleError, match="no reference"):
        read_mixture_folder(tmp_path)
    soundfile.write(tmp_path / "s2" / "a.wav", np.zeros(90), 8000)
    (item,) = read_mixture_folder(tmp_path)
    with pytest.raises(UnmingleError, match="length"):
        read_item(item)
    soundfile.write(tmp_path / "s2" / "a.wav", np.zeros(100), 16000)
    with pytest.raises(UnmingleError, match="sample rate"):
        read_item(item)
