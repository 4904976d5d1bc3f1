"""Timelines: segments of speech from known energies, and the three formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unmingle.errors import UnmingleError
from unmingle.separation.timeline import Segment, timeline, write_timelines
from unmingle.separation.windows import Tracks

RECORDINGS = [("my talk.wav", 5.0, [Segment(1, 0.0, 2.0), Segment(2, 1.5, 4.25)]), ("b.wav", 3.0, [])]


def _tracks(*rows: list[float]) -> Tracks:
    power = np.array(rows, dtype=np.float32)
    return Tracks(power, np.full_like(power, 1 / len(rows)), 1.0, 1.0, 0.05, 60.0)


def test_speech_is_found_where_it_is() -> None:
    # Frames of 50 ms: speaker 1 from 0.5 to 2 s, speaker 2 from 1.5 to 3 s, and a click of one frame.
    first, second = np.zeros((2, 100))
    first[10:40], second[30:60], second[80] = 1.0, 0.7, 0.7
    assert timeline(_tracks(list(first), list(second)), 5.0) == [Segment(1, 0.5, 2.0), Segment(2, 1.5, 3.0)]


def test_short_pauses_are_part_of_the_speech_and_long_ones_are_not() -> None:
    row = np.zeros(100)
    row[10:20], row[24:40], row[60:70] = 1.0, 1.0, 1.0
    assert timeline(_tracks(list(row)), 5.0) == [Segment(1, 0.5, 2.0), Segment(1, 3.0, 3.5)]


def test_no_speech_ends_after_the_recording() -> None:
    row = np.zeros(100)
    row[80:] = 1.0
    assert timeline(_tracks(list(row)), 4.97) == [Segment(1, 4.0, 4.97)]


def test_what_leaks_from_a_louder_speaker_is_no_speech() -> None:
    loud = np.zeros(100)
    loud[10:90] = 1.0
    leak = 0.05 * loud
    leak[50:60] = 2.0
    segments = timeline(_tracks(list(loud), list(leak)), 5.0)
    assert [segment for segment in segments if segment.speaker == 2] == [Segment(2, 2.5, 3.0)]


def test_json_and_rttm_say_the_same(tmp_path: Path) -> None:
    for suffix in ("json", "rttm"):
        write_timelines(tmp_path / f"who.{suffix}", RECORDINGS)
    found = json.loads((tmp_path / "who.json").read_text())
    assert found[0]["recording"] == "my talk.wav"
    assert found[0]["speech"][1] == {"speaker": 2, "start": 1.5, "end": 4.25}
    assert found[1] == {"recording": "b.wav", "seconds": 3.0, "speech": []}
    rows = [line.split() for line in (tmp_path / "who.rttm").read_text().splitlines()]
    assert rows[1] == [
        "SPEAKER",
        "my_talk",
        "1",
        "1.500",
        "2.750",
        "<NA>",
        "<NA>",
        "speaker2",
        "<NA>",
        "<NA>",
    ]
    assert len(rows) == 2


def test_recordings_of_one_name_in_two_folders_stay_two_in_rttm(tmp_path: Path) -> None:
    spoken = [Segment(1, 0.0, 1.0)]
    write_timelines(tmp_path / "who.rttm", [("a/x y.wav", 2.0, spoken), ("b/x y.wav", 2.0, spoken)])
    rows = [line.split() for line in (tmp_path / "who.rttm").read_text().splitlines()]
    assert [row[1] for row in rows] == ["a/x_y.wav", "b/x_y.wav"]
    assert all(len(row) == 10 for row in rows)


def test_a_picture_is_drawn_and_other_suffixes_are_refused(tmp_path: Path) -> None:
    write_timelines(tmp_path / "who.png", [("a$b.wav", 5.0, RECORDINGS[0][2]), *RECORDINGS])
    assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UnmingleError, match=r"\.json, \.rttm or \.png"):
        write_timelines(tmp_path / "who.csv", RECORDINGS)
    assert not (tmp_path / "who.csv").exists()
