"""Folders of mixtures: reproducible bytes, rooms, conversations, noise and the data card."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from unmingle import __version__
from unmingle.audio import active_level
from unmingle.data.mixture_folders import list_hash, read_item, read_mixture_folder
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.data.noise import noise_level
from unmingle.data.rooms import RoomConfig, RoomMaker, in_room
from unmingle.errors import UnmingleError
from unmingle.shares import Share

RATE = 8000


def _config(corpus: Path, **changes: object) -> MixtureFolderConfig:
    return MixtureFolderConfig.model_validate(
        {"corpora": [str(corpus)], "split": "test", "count": 4, "seed": 3} | changes
    )


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "mixtures.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("changes", [{}, {"room": RoomConfig()}, {"overlap": [0.0, 1.0]}], ids=str)
def test_the_number_of_processes_does_not_change_a_byte(
    example_corpus: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    config = _config(example_corpus, count=9, **changes)
    for processes in (1, 2, 5):
        write_mixture_folder(tmp_path / str(processes), config, processes=processes)
    assert _bytes(tmp_path / "1") == _bytes(tmp_path / "2") == _bytes(tmp_path / "5")


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(example_corpus: Path, tmp_path: Path) -> None:
    count = 400
    write_mixture_folder(tmp_path / "whole", _config(example_corpus, count=count))
    command = [
        sys.executable,
        "-m",
        "unmingle",
        "mix",
        str(example_corpus),
        "-o",
        "cut",
        "--count",
        str(count),
    ]
    command += ["--seed", "3", "--split", "test"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    rows = tmp_path / ".cut.partial" / "rows"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (rows.is_dir() and len(list(rows.iterdir())) > 5):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut").exists()
    kept = {path: path.stat().st_mtime_ns for path in rows.glob("*.json")}
    assert 0 < len(kept) < count
    ends: list[int] = []
    write_mixture_folder(
        tmp_path / "cut", _config(example_corpus, count=count), on_progress=lambda done, _: ends.append(done)
    )
    assert ends[0] == len(kept) + 1  # Existing mixtures were not written again.
    assert _bytes(tmp_path / "cut") == _bytes(tmp_path / "whole")
    assert not rows.parent.exists()


@pytest.mark.parametrize("decoded", [True, False])
def test_shares_make_the_bytes_of_one_run(example_corpus: Path, tmp_path: Path, decoded: bool) -> None:
    config = _config(example_corpus, count=7)
    write_mixture_folder(tmp_path / "whole", config, tmp_path / ("cache" if decoded else "other"))
    shared, cache = tmp_path / "shared", tmp_path / "cache"
    # With more shares than mixtures, two do nothing.
    complete = [write_mixture_folder(shared, config, cache, share=Share(i, 9)) for i in range(9, 0, -1)]
    assert complete == [False] * 8 + [True]
    assert _bytes(shared) == _bytes(tmp_path / "whole")
    before = {path: path.stat().st_mtime_ns for path in shared.rglob("*")}
    assert write_mixture_folder(shared, config, cache, share=Share(4, 9))
    assert {path: path.stat().st_mtime_ns for path in shared.rglob("*")} == before
    with pytest.raises(UnmingleError, match="not empty"):
        write_mixture_folder(shared, _config(example_corpus, count=7, seed=4), cache, share=Share(1, 9))


def test_a_share_goes_on_and_leaves_the_others_their_work(example_corpus: Path, tmp_path: Path) -> None:
    config = _config(example_corpus, count=6)
    write_mixture_folder(tmp_path / "whole", config)
    shared, rows = tmp_path / "shared", tmp_path / ".shared.partial" / "rows"
    write_mixture_folder(shared, config, share=Share(1, 2))
    assert sorted(path.name for path in rows.glob("*.json")) == ["00000.json", "00002.json", "00004.json"]
    with pytest.raises(UnmingleError, match="other options"):
        write_mixture_folder(shared, _config(example_corpus, count=6, seed=4), share=Share(2, 2))
    (rows / "00002.json").unlink()  # As if the run had been killed in the middle.
    kept = (rows / "00000.json").stat().st_mtime_ns
    done: list[tuple[int, int]] = []
    write_mixture_folder(shared, config, on_progress=lambda *ends: done.append(ends), share=Share(1, 2))
    assert done == [(3, 3)]
    assert (rows / "00000.json").stat().st_mtime_ns == kept
    write_mixture_folder(shared, config)  # All that is missing, without shares.
    assert _bytes(shared) == _bytes(tmp_path / "whole")


def test_shares_at_the_same_time_complete_the_folder_once(example_corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unmingle", "mix", str(example_corpus), "--count", "12", "--seed", "3"]
    command += ["--split", "test", "-o"]
    for shares in (["1/1"], ["1/3", "2/3", "3/3", "3/3"]):
        folder = tmp_path / str(len(shares))
        running = [
            subprocess.Popen([*command, str(folder), "--shard", share], stdout=subprocess.PIPE, text=True)
            for share in shares
        ]
        said = [process.communicate(timeout=240)[0] for process in running]
        assert [process.returncode for process in running] == [0] * len(running)
        assert any(text.startswith("12 mixtures") for text in said)
    assert _bytes(tmp_path / "4") == _bytes(tmp_path / "1")
    assert not list(tmp_path.glob(".*"))


def test_a_share_that_begins_before_the_folder_is_complete_and_goes_on_after_leaves_nothing(
    example_corpus: Path, tmp_path: Path
) -> None:
    config = _config(example_corpus)
    folder = tmp_path / "test"

    def others(done: int, count: int) -> None:
        """Another process writes everything while this one still decodes."""
        if not folder.exists():
            write_mixture_folder(folder, config)

    cache = tmp_path / "cache"
    assert write_mixture_folder(folder, config, cache, on_decoded=others, share=Share(1, 2))
    write_mixture_folder(tmp_path / "whole", config)
    assert _bytes(folder) == _bytes(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_files_of_another_recipe_are_not_used(example_corpus: Path, tmp_path: Path) -> None:
    write_mixture_folder(tmp_path / "right", _config(example_corpus))
    write_mixture_folder(tmp_path / "other", _config(example_corpus, seed=4))
    left = tmp_path / ".again.partial"
    (left / "rows").mkdir(parents=True)
    (left / "rows" / "plan").write_text("of another recipe")
    (left / "rows" / "00000.json").write_text('{"name": "wrong"}')
    (left / "mix").mkdir()
    (left / "mix" / "wrong.wav").write_bytes(b"wrong")
    write_mixture_folder(tmp_path / "again", _config(example_corpus))
    assert _bytes(tmp_path / "again") == _bytes(tmp_path / "right") != _bytes(tmp_path / "other")


def test_the_card_says_sources_licences_seed_ranges_version_and_hash(
    example_corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "test"
    write_mixture_folder(folder, _config(example_corpus, room=RoomConfig()))
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in (
        list_hash(read_mixture_folder(folder)),
        '"seed": 3',
        "SNR (dB)",
        "reverberation",
        "| licences |",
    ):
        assert part in card
    assert __version__ in card


def test_several_speakers_in_noise_at_the_stated_snr(
    example_corpus: Path, example_noise: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "noisy"
    write_mixture_folder(folder, _config(example_corpus, noise=[str(example_noise)], noise_snr=[3.0, 3.0]))
    for item, row in zip(read_mixture_folder(folder), _rows(folder), strict=True):
        mixture, sources, rate = read_item(item)
        noise = mixture - sources.sum(axis=0)
        snr = 20 * np.log10(active_level(sources.sum(axis=0), rate) / noise_level(noise))
        assert float(row["noise_snr_db"]) == pytest.approx(snr, abs=0.05)
        assert snr >= 2.95  # More only where a gap in the noise is not raised.
        assert item.noisy is False


def test_conversations_of_a_stated_overlap(example_corpus: Path, tmp_path: Path) -> None:
    for share in (0.0, 0.5):
        folder = tmp_path / str(share)
        write_mixture_folder(folder, _config(example_corpus, overlap=[share, share]))
        for item, row in zip(read_mixture_folder(folder), _rows(folder), strict=True):
            _, sources, rate = read_item(item)
            spans = [np.flatnonzero(source) for source in sources]
            common = min(span[-1] for span in spans) - max(span[0] for span in spans)
            assert float(row["overlap"]) == pytest.approx(max(0, common) / sources.shape[1], abs=0.03)
            shorter = min(span[-1] - span[0] for span in spans)
            assert max(0, common) / shorter == pytest.approx(share, abs=0.05)
            assert rate == RATE


@pytest.mark.parametrize("rt60", [0.2, 0.5, 0.9])
def test_a_room_has_the_requested_reverberation_time(rt60: float) -> None:
    maker = RoomMaker(RoomConfig(rt60=(rt60, rt60), distance=(1.0, 1.0)), RATE, 0)
    for seed in range(3):
        room = maker.draw(np.random.default_rng(seed), 2)
        for response in room.responses:
            # Schroeder's backward integration; the decay from -5 to -25 dB, extrapolated.
            left = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
            decay = 10 * np.log10(left / left[0] + 1e-12)
            first, last = (int(np.argmax(decay < level)) for level in (-5.0, -25.0))
            assert 3 * (last - first) / RATE == pytest.approx(rt60, rel=0.3)
            # Sound takes 2.9 ms per metre.
            direct = int(np.argmax(np.abs(response) > 0.5 * np.abs(response).max()))
            assert direct == pytest.approx(RATE / 343.0, abs=3)


def test_threads_change_no_byte_of_a_room() -> None:
    import pyroomacoustics

    found = []
    for threads in (1, 4):
        pyroomacoustics.constants.set("num_threads", threads)
        room = RoomMaker(RoomConfig(), RATE, 0).draw(np.random.default_rng(0), 2)
        found.append(b"".join(response.tobytes() for response in room.responses))
    assert found[0] == found[1]


def test_far_speakers_have_less_direct_sound() -> None:
    def share(distance: float) -> float:
        maker = RoomMaker(RoomConfig(rt60=(0.4, 0.4), distance=(distance, distance)), RATE, 0)
        shares = []
        for seed in range(5):
            response = maker.draw(np.random.default_rng(seed), 1).responses[0]
            early = int(distance / 343 * RATE) + 20
            shares.append(float(np.square(response[:early]).sum() / np.square(response).sum()))
        return float(np.mean(shares))

    assert share(0.4) > share(1.0) > share(2.2)


def test_rooms_convolve_and_keep_their_levels(example_corpus: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    room = RoomMaker(RoomConfig(), RATE, 0).draw(rng, 2)
    sources = rng.standard_normal((2, 500)).astype(np.float32)
    slow = np.stack(
        [np.convolve(one, response)[:500] for one, response in zip(sources, room.responses, strict=True)]
    )
    np.testing.assert_allclose(in_room(sources, room), slow, atol=1e-4)

    for setting in ("random", "loudspeakers"):
        folder = tmp_path / setting
        room_config = RoomConfig(setting=setting, distance=(0.4, 2.0), rt60=(0.3, 0.6))  # type: ignore[arg-type]
        write_mixture_folder(folder, _config(example_corpus, room=room_config, snr=[2.0, 2.0], count=6))
        rows = _rows(folder)
        for item, row in zip(read_mixture_folder(folder), rows, strict=True):
            mixture, sources, rate = read_item(item)
            np.testing.assert_allclose(sources.sum(axis=0), mixture, atol=1e-6)
            first, second = (active_level(source, rate) for source in sources)
            assert float(row["snr_db"]) == pytest.approx(20 * np.log10(first / second), abs=0.01)
        snrs = [float(row["snr_db"]) for row in rows]
        if setting == "random":
            assert len({row["rt60"] for row in rows}) == 6
            assert max(snrs) < 5  # As planned, 2 dB, but for what the cut to the shorter one changes.
        else:
            assert {(row["rt60"], row["distance_1"], row["distance_2"]) for row in rows} == {
                (rows[0]["rt60"], "0.400", "2.000")
            }
            assert min(snrs) > 5  # The far one is quieter than was planned at the loudspeakers.


def test_impossible_rooms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="low, high"):
        RoomConfig(rt60=(0.6, 0.2))
    maker = RoomMaker(RoomConfig(distance=(5.0, 5.0)), RATE, 0)
    monkeypatch.setattr("unmingle.data.rooms.random_place", lambda *_: None)
    with pytest.raises(UnmingleError, match="do not fit"):
        maker.draw(np.random.default_rng(0), 1)
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(UnmingleError, match=r"unmingle\[rooms\]"):
        RoomMaker(RoomConfig(), RATE, 0)


@pytest.mark.parametrize(
    "changes",
    [{"overlap": [0.0, 2.0]}, {"noise_snr": [0.0, 1.0]}, {"noise": ["n"]}, {"snr": [5.0, 0.0]}],
    ids=str,
)
def test_ranges_that_make_no_sense_are_refused(example_corpus: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        _ = _config(example_corpus, **changes).mixing
