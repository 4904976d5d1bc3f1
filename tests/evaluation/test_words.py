"""Word error rates."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from conftest import EXAMPLES
from unmingle.errors import UnmingleError
from unmingle.evaluation.candidates import CandidateConfig
from unmingle.evaluation.evaluate import evaluate_folder
from unmingle.evaluation.score_table import scores_csv
from unmingle.evaluation.summary import MixtureScores
from unmingle.evaluation.words import WordErrors, count_errors, normalize, recognize, summarize_words
from unmingle.shares import WHOLE

FORWARD = EXAMPLES / "speech" / "sphinx_speaker" / "goforward.flac"
TEXT = "Go forward ten meters!"


def test_texts_are_compared_as_words() -> None:
    assert normalize("  Don't  STOP -- it's 5 o'clock, Mr. X! ") == "don't stop it's o'clock mr x"
    assert (
        normalize("[lip_smack] THE SALE ,COMMA *OF* [<door_slam] HOTELS [door_slam>]")
        == "the sale comma of hotels"
    )


def test_clean_speech_is_recognized_and_noise_is_not() -> None:
    audio, rate = soundfile.read(FORWARD, dtype="float32")
    rng = np.random.default_rng(0)
    drowned = (audio + rng.standard_normal(len(audio))).astype(np.float32)
    found = count_errors(TEXT, {"clean": audio, "mixture": drowned, "silence": 0 * audio}, rate)
    assert found is not None
    assert found.words == 4
    assert found.errors["clean"] <= 1
    assert found.errors["mixture"] > found.errors["clean"]
    assert found.errors["silence"] == 4
    assert count_errors(" -- ", {"clean": audio}, rate) is None


def test_earlier_recordings_and_the_level_do_not_change_the_result() -> None:
    audio, rate = soundfile.read(FORWARD, dtype="float32")
    path = sorted((EXAMPLES / "speech" / "librivox_reader").iterdir())[0]
    other, _ = soundfile.read(path, frames=2 * rate, dtype="float32")
    first = recognize(audio, rate)
    recognize(other, rate)
    assert recognize(audio, rate) == first
    assert recognize(0.01 * audio, rate) == first


def test_rates_are_over_all_words_not_means_of_rates() -> None:
    versions = ("mixture", "estimate", "oracle", "clean")
    speakers = [
        WordErrors(10, dict(zip(versions, (10, 5, 1, 0), strict=True))),
        WordErrors(30, dict(zip(versions, (20, 5, 3, 2), strict=True))),
    ]
    found = summarize_words(speakers)
    assert found["rates"] == {"mixture": 0.75, "estimate": 0.25, "oracle": 0.1, "clean": 0.05}
    assert found["excess_removed"] == pytest.approx(0.5 / 0.7)
    assert "pocketsphinx" in found["recognizer"]


def test_speakers_without_an_oracle_are_left_out_of_its_rate() -> None:
    alone = WordErrors(10, {"mixture": 4, "estimate": 4, "clean": 4})
    both = WordErrors(30, {"mixture": 20, "estimate": 5, "clean": 2, "oracle": 3})
    for speakers in ([alone, both], [both, alone]):
        rates = summarize_words(speakers)["rates"]
        assert rates == {"mixture": 0.6, "estimate": 0.225, "clean": 0.15, "oracle": 0.1}
    scores = [
        MixtureScores(str(n), 1.0, {}, {}, ("a",), words=(each,)) for n, each in enumerate([alone, both])
    ]
    rows = list(csv.DictReader(scores_csv(scores, [], 1).decode().splitlines()))
    assert [row["word_errors_oracle_1"] for row in rows] == ["", "3"]


@pytest.mark.parametrize("corpus", ["librispeech_x", "wsj0"])
def test_words_in_a_folder_of_mixtures(corpus: str, tmp_path: Path) -> None:
    folder = tmp_path / "test"
    first, rate = soundfile.read(FORWARD, dtype="float32")
    second = np.roll(first, 7000)[::-1].copy()
    for name, audio in (("mix", first + second), ("s1", first), ("s2", second)):
        (folder / name).mkdir(parents=True)
        soundfile.write(folder / name / "a.wav", audio, rate, "FLOAT")
    candidate = CandidateConfig(oracle="ibm")
    with pytest.raises(UnmingleError, match="no texts to score against"):
        evaluate_folder(folder, candidate, tmp_path / "out", words=True)
    rows = {
        "name": "a",
        "corpus_1": corpus,
        "text_1": TEXT,
        "corpus_2": "others",
        "text_2": "not heard",
    }
    (folder / "mixtures.csv").write_text(f"{','.join(rows)}\n{','.join(rows.values())}\n")
    summary = evaluate_folder(folder, candidate, tmp_path / "out", metrics=["si_sdr"], words=True)
    assert summary["words"]["speakers"] == 1
    assert summary["words"]["words"] == 4
    assert set(summary["words"]["rates"]) == {"mixture", "estimate", "oracle", "clean"}
    if corpus == "wsj0":
        evaluate_folder(folder, candidate, tmp_path / "part", metrics=["si_sdr"], words=True, share=WHOLE)
        parts = [(tmp_path / name / "scores.csv").read_bytes() for name in ("part", "out")]
        assert parts[0] == parts[1]
    (row,) = csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines())
    assert row["words_1"] == "4"
    assert row["words_2"] == ""
    assert int(row["word_errors_clean_1"]) == round(4 * summary["words"]["rates"]["clean"])
