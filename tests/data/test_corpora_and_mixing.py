from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from unmingle.audio import active_level
from unmingle.data.batches import Crops, iterate
from unmingle.data.cache import decode
from unmingle.data.corpora import Utterance, by_speaker, read_corpora
from unmingle.data.examples import active_sources
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.mixture_folders import read_item, read_mixture_folder
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.data.premixed import PremixedMixtures, is_premixed
from unmingle.errors import UnmingleError


def _mixer(corpus: Path, seed: int = 0, **changes: Any) -> Mixer:
    utterances = read_corpora([corpus], "train")
    return Mixer(utterances, decode(utterances, 8000), 8000, MixingConfig.model_validate(changes), seed)


def test_mixture_k_is_a_pure_function_of_seed_and_k(example_corpus: Path) -> None:
    config = {"speed": (0.9, 1.1), "partial_overlap": 0.3, "single_speaker": 0.2}
    first, second = _mixer(example_corpus, **config), _mixer(example_corpus, **config)
    backwards = {k: first.render(first.crop(k, 8000)) for k in reversed(range(6))}
    for k in range(6):
        np.testing.assert_array_equal(second.render(second.crop(k, 8000)), backwards[k])
    other = _mixer(example_corpus, seed=1, **config)
    assert not np.array_equal(other.render(other.crop(0, 8000)), backwards[0])


def test_workers_change_nothing_and_runs_resume_exactly(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus)
    here = list(iterate(Crops(mixer, 0.5, 4, batches=4), workers=0))
    there = list(iterate(Crops(mixer, 0.5, 4, first_batch=2, batches=4), workers=1))
    assert len(there) == 2
    for one, other in zip(here[2:], there, strict=True):
        np.testing.assert_array_equal(one.mixture.numpy(), other.mixture.numpy())
    halves = [Crops(mixer, 0.5, 4, batches=4, rank=rank, world_size=2)[3] for rank in (0, 1)]
    together = {tuple(row[:50].tolist()) for half in halves for row in half.mixture}
    assert together == {tuple(row[:50].tolist()) for row in here[3].mixture}


def test_active_levels_have_the_drawn_ratio(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus, snr=(5.0, 5.0))
    for k in range(5):
        first, second = mixer.render(mixer.whole(k, "max"))
        ratio = 20 * np.log10(active_level(first, 8000) / active_level(second, 8000))
        assert ratio == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize("speakers", [1, 2])
def test_crops_are_full_and_batches_add_up(example_corpus: Path, speakers: int) -> None:
    batch = Crops(_mixer(example_corpus, speakers=speakers), 2.0, 8, batches=1)[0]
    np.testing.assert_allclose(batch.sources.sum(dim=1), batch.mixture, atol=1e-6)
    assert batch.mixture.abs().max() <= 0.951
    assert batch.active.all()
    assert (batch.sources.abs().amax(dim=-1) > 0.01).all()


def test_a_single_speaker_leaves_the_others_silent_and_inactive(example_corpus: Path) -> None:
    batch = Crops(_mixer(example_corpus, single_speaker=1.0), 1.0, 6, batches=1)[0]
    assert batch.active.tolist() == [[True, False]] * 6
    assert batch.sources[:, 1].abs().max() == 0


def test_partial_overlap_leaves_a_part_to_the_first_speaker(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus, partial_overlap=1.0)
    for k in range(8):
        segments = mixer.crop(k, 16000).voices[1].segments
        covered = segments[-1].position + segments[-1].length - segments[0].position
        assert 0.1 * 16000 * 0.5 < covered < 0.9 * 16000 + 1


@given(st.integers(0, 200), st.integers(100, 30000))
def test_plans_stay_inside_the_mixture_and_the_utterances(k: int, samples: int) -> None:
    class Lengths:
        def length(self, index: int) -> int:
            return (5000, 12000, 700, 24000)[index]

    utterances = [Utterance(Path(f"{n}.wav"), "c", f"s{n % 2}", "F", "train") for n in range(4)]
    config = MixingConfig(speed=(0.8, 1.2), partial_overlap=0.4, single_speaker=0.2, late=0.5)
    mixer = Mixer(utterances, Lengths(), 8000, config, 3)  # type: ignore[arg-type]
    plan = mixer.crop(k, samples)
    for voice in plan.voices:
        for segment in voice.segments:
            assert segment.position >= 0
            assert segment.position + segment.length <= samples
            assert segment.start + segment.length * voice.speed <= Lengths().length(segment.utterance) + 2


def test_some_crops_begin_before_anybody_talks(example_corpus: Path) -> None:
    plain, late = _mixer(example_corpus), _mixer(example_corpus, late=0.4)
    firsts = [late.crop(k, 6000).voices[0].segments[0].position for k in range(300)]
    assert all(first < 2000 for first in firsts)
    begun_late = [first for first in firsts if first > 0]
    assert 0.3 < len(begun_late) / 300 < 0.5
    assert min(begun_late) < 100 < 1900 < max(begun_late)
    for k in range(20):
        for number, voice in enumerate(late.crop(k, 6000).voices):
            assert voice.segments[0].position == (firsts[k] if number == 0 else 0)
        assert plain.crop(k, 6000).voices[0].segments[0].position == 0


def test_speakers_of_a_mixture_differ(example_corpus: Path) -> None:
    mixer = _mixer(example_corpus)
    utterances = read_corpora([example_corpus], "train")
    for k in range(20):
        voices = mixer.crop(k, 8000).voices
        assert len({utterances[voice.segments[0].utterance].speaker for voice in voices}) == 2


def test_too_few_speakers_are_refused(example_corpus: Path) -> None:
    with pytest.raises(UnmingleError, match="3 speakers"):
        _mixer(example_corpus, speakers=3)


def test_weights_of_other_corpora_change_nothing_but_are_told(
    example_corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixer = _mixer(example_corpus, corpus_weights={"nobody": 0.2})
    assert "corpus_weights names nobody" in caplog.text
    np.testing.assert_array_equal(
        mixer.example(0, 8000).mixture, _mixer(example_corpus).example(0, 8000).mixture
    )
    name = next(iter(by_speaker(read_corpora([example_corpus], "train"))))
    with pytest.raises(UnmingleError, match="no corpus"):
        _mixer(example_corpus, corpus_weights={name: 0.0})


def test_any_folder_of_speakers_is_a_corpus_with_disjoint_splits(tmp_path: Path) -> None:
    for speaker in range(40):
        path = tmp_path / "corpus" / f"speaker{speaker}" / "chapter" / "1.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.zeros(100), 8000)
    utterances = read_corpora([tmp_path / "corpus"])
    assert len(utterances) == 40
    splits = {
        split: {u.speaker for u in utterances if u.split == split} for split in ("train", "valid", "test")
    }
    assert all(splits.values())
    assert sum(map(len, splits.values())) == 40
    assert read_corpora([tmp_path / "corpus"]) == utterances


def test_bad_corpora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no_path.csv").write_text("speaker,split\na,train\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 20)
    (tmp_path / "empty").mkdir()
    for name, word in (
        ("no_path.csv", "column"),
        ("binary.csv", "UTF-8"),
        ("empty", "neither"),
        ("none", "exist"),
    ):
        with pytest.raises(UnmingleError, match=word):
            read_corpora([tmp_path / name])
    with pytest.raises(UnmingleError, match="no split 'dev'"):
        read_corpora([tmp_path], "dev")


def test_the_cache_is_made_once_and_again_when_a_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(1000)), 8000)
    utterances = [Utterance(path, "c", "s", "F", "train")]
    decode(utterances, 8000, tmp_path / "cache")
    folders = list((tmp_path / "cache").iterdir())
    assert len(decode(utterances, 8000, tmp_path / "cache")) == 1
    assert list((tmp_path / "cache").iterdir()) == folders
    soundfile.write(path, 0.1 * np.sin(np.arange(2000)), 8000)
    assert decode(utterances, 8000, tmp_path / "cache").length(0) == 2000


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


def test_a_varying_number_of_speakers_is_drawn_evenly(crowd_corpus: Path, tmp_path: Path) -> None:
    utterances = read_corpora([crowd_corpus], "train")
    speech = decode(utterances, 8000, tmp_path / "cache")
    mixer = Mixer(utterances, speech, 8000, MixingConfig(speakers=3, fewest_speakers=1), 0)
    counts = [int(active_sources(mixer.example(k, 8000)).sum()) for k in range(60)]
    assert {1, 2, 3} == set(counts)
    assert all(counts.count(number) > 8 for number in (1, 2, 3))
    sources = mixer.render(mixer.crop(counts.index(1), 8000))
    assert np.abs(sources[1:]).max() == 0
