"""The mixtures of a run: from corpora and folders, with the numbers of speakers of each stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_values
from training_runs import log_rows, tiny_recipe
from unmingle.audio import write_audio
from unmingle.data.examples import active_sources
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.errors import UnmingleError
from unmingle.systems import EmbeddingSeparator, build_system
from unmingle.training.initial import fresh_system
from unmingle.training.launch import train
from unmingle.training.loop import Options
from unmingle.training.mixtures import Validation, training_mixer, validation_mixer
from unmingle.training.recipe import Recipe


def test_training_on_mixtures_made_before(example_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name, split in (("tr", "train"), ("cv", "valid")):
        config = MixtureFolderConfig(corpora=[str(example_corpus)], split=split, count=3, seed=1)
        write_mixture_folder(tmp_path / "made" / name, config)
    recipe = tiny_recipe(tmp_path / "made", steps=3)
    assert train(recipe, tmp_path / "run", Options(workers=1)).total_steps == 3
    both = recipe.model_copy(update={"data": [*recipe.data, str(example_corpus)]})
    with pytest.raises(UnmingleError, match="one kind"):
        train(both, tmp_path / "other", Options(workers=0))


def test_validation_looks_at_the_speakers_wherever_they_stand(tmp_path: Path) -> None:
    """Made mixtures may have a silent first source; with fewer than two speakers nothing can improve."""
    made = tmp_path / "made"
    voice = np.random.default_rng(0).normal(size=(2, 8000)).astype(np.float32) * 0.1
    silence = np.zeros(8000, dtype=np.float32)
    cases = {"a": (silence, voice[0], voice[1]), "b": (silence, silence, voice[0]), "c": (silence,) * 3}
    for split in ("tr", "cv"):
        for name, sources in cases.items():
            for folder, samples in zip(("s1", "s2", "s3"), sources, strict=True):
                write_audio(made / split / folder / f"{name}.wav", samples, 8000)
            write_audio(made / split / "mix" / f"{name}.wav", sum(sources), 8000)  # type: ignore[arg-type]
    recipe = tiny_recipe(made, system=tiny_values(speakers=3), mixing={"speakers": 3}, steps=3)
    recipe = recipe.model_copy(update={"validation": recipe.validation.model_copy(update={"count": 30})})
    train(recipe, tmp_path / "run", Options(workers=0))
    score = float(log_rows(tmp_path / "run")[-1]["validation_si_sdr_improvement"])
    assert abs(score) < 20  # a silent reference, or a single speaker's, would be a hundred away


def test_a_stage_may_have_its_own_number_of_speakers(crowd_corpus: Path, tmp_path: Path) -> None:
    stage = {"seconds": 0.5, "steps": 1, "batch_size": 2}
    recipe = tiny_recipe(
        crowd_corpus,
        system=tiny_values(speakers=3, fewest_speakers=2),
        mixing={"speakers": 3, "fewest_speakers": 2},
        stages=[stage | {"most_speakers": 2}, stage | {"fewest_speakers": 3}, stage],
    )
    for opened in (training_mixer, validation_mixer):
        counts = []
        for each in recipe.stages:
            mixer = opened(recipe, None, each)
            counts.append({int(active_sources(mixer.example(k, 4000)).sum()) for k in range(20)})
        assert counts == [{2}, {3}, {2, 3}]
        assert mixer.example(0, 4000).sources.shape == (3, 4000)
    train(recipe, tmp_path / "run", Options(workers=0))
    with pytest.raises(ValueError, match="more than most_speakers"):
        Recipe.model_validate(
            recipe.model_dump() | {"stages": [stage | {"most_speakers": 2, "fewest_speakers": 3}]}
        )


def test_stages_are_validated_on_their_own_numbers_of_speakers(crowd_corpus: Path, tmp_path: Path) -> None:
    """Two speakers, then two and three: the loss of the same weights is that of other mixtures."""
    stage = {"seconds": 0.5, "steps": 1, "batch_size": 2, "learning_rate": 1e-12}
    recipe = tiny_recipe(
        crowd_corpus,
        system=tiny_values(speakers=3, fewest_speakers=2),
        mixing={"speakers": 3, "fewest_speakers": 2},
        stages=[stage | {"fewest_speakers": 3}, stage, stage],
        validation={"count": 12, "seconds": 1.0},
    )
    train(recipe, tmp_path / "run", Options(workers=0))
    first, second, third = (float(row["validation_loss"]) for row in log_rows(tmp_path / "run"))
    assert first != pytest.approx(second, rel=1e-3)
    assert second == pytest.approx(third, rel=1e-5)


def test_a_mixture_that_cannot_be_improved_does_not_count(crowd_corpus: Path, example_noise: Path) -> None:
    """Clean speech of one speaker has 100 dB, also beside noisy mixtures in a batch."""
    recipe = tiny_recipe(
        crowd_corpus,
        system={"kind": "denoiser", "sample_rate": 8000, "stft": {"window_length": 128, "hop": 64},
                "network": {"layers": 1, "hidden_size": 4}},
        mixing={"speakers": 1, "noise": {"share": 0.5, "weights": {"shaped": 1.0}, "snr_levels": [0]}},
        validation={"count": 40, "seconds": 1.0},
    )  # fmt: skip
    recipe = recipe.model_copy(update={"noise_data": [str(example_noise)]})
    validation = Validation(recipe, None, 0, 1)
    gain, counted, _, count = validation.sums(build_system(recipe.system), torch.device("cpu")).tolist()
    assert count == 40
    assert 10 < counted < 30
    assert gain / counted > -30


def test_a_folder_of_two_and_one_of_three_speakers_are_trained_on_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3):
        for split in ("tr", "cv"):
            sources = 0.1 * rng.standard_normal((count, 8000), dtype=np.float32)
            write_audio(tmp_path / str(count) / split / "mix" / "a.wav", sources.sum(axis=0), 8000)
            for number, samples in enumerate(sources, start=1):
                write_audio(tmp_path / str(count) / split / f"s{number}" / "a.wav", samples, 8000)
    both = {"speakers": 3, "fewest_speakers": 2}
    recipe = tiny_recipe(tmp_path / "2", steps=2, system=tiny_values(**both), mixing=both)
    recipe = recipe.model_copy(update={"data": [str(tmp_path / "2"), str(tmp_path / "3")]})
    assert train(recipe, tmp_path / "run", Options(workers=0)).total_steps == 2
    alone = recipe.model_copy(update={"data": [str(tmp_path / "3")]})
    with pytest.raises(UnmingleError, match="add --data with 2 speakers"):
        train(alone, tmp_path / "alone", Options(workers=0))
    assert not (tmp_path / "alone").exists()


def test_mixtures_and_corpora_are_not_trained_on_together(example_corpus: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "made" / "tr" / "mix" / "a.wav", np.zeros(80, dtype=np.float32), 8000)
    recipe = tiny_recipe(example_corpus).model_copy(
        update={"data": [str(example_corpus), str(tmp_path / "made")]}
    )
    with pytest.raises(UnmingleError, match="one kind"):
        train(recipe, tmp_path / "run", Options(workers=0))


def test_statistics_come_from_as_many_minutes_as_the_recipe_says(example_corpus: Path) -> None:
    recipe = tiny_recipe(example_corpus, statistics_minutes=2.0)
    mixer = training_mixer(recipe, None)
    system = fresh_system(recipe, mixer)
    mixtures = torch.from_numpy(np.stack([mixer.example(k, 4000).mixture for k in range(240)]))
    expected = EmbeddingSeparator(system.config)
    expected.fit(mixtures)
    torch.testing.assert_close(system.frontend.mean, expected.frontend.mean)
    torch.testing.assert_close(system.frontend.deviation, expected.frontend.deviation)


def test_a_corpus_without_validation_speakers_is_left_out_of_validation(tmp_path: Path) -> None:
    """Speakers of the splits are tones, low in one and high in the other."""
    rows = ["path,corpus,speaker,gender,split,text"]
    for corpus, split, hertz in (("a", "train", 300), ("a", "valid", 2000), ("b", "train", 400)):
        for speaker in range(2):
            name = f"{corpus}-{split}-{speaker}"
            tone = 0.1 * np.sin(2 * np.pi * (hertz + 10 * speaker) * np.arange(8000) / 8000)
            write_audio(tmp_path / f"{name}.wav", tone.astype(np.float32), 8000)
            rows.append(f"{name}.wav,{corpus},{name},F,{split},")
    (tmp_path / "speech.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    mixing = {"speakers": 2, "corpus_weights": {"a": 0.5, "b": 0.5}}
    recipe = tiny_recipe(tmp_path / "speech.csv", mixing=mixing)
    highest = []
    for mixer in (training_mixer(recipe, None), validation_mixer(recipe, None)):
        peaks = [np.abs(np.fft.rfft(mixer.example(k, 4000).mixture)).argmax() * 2 for k in range(10)]
        highest.append((min(peaks), max(peaks)))
    assert highest[0][1] < 600
    assert highest[1][0] > 1500
