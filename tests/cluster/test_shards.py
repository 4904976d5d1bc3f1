"""Shards: the same bytes whoever does them, nothing lost or done twice, one bad file stops nothing."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest

from conftest import Result, tiny_sound
from corpora import LitterJob, PoisonJob, contents, make_corpus
from unmingle.cluster.corpus_run import Options, in_this_process, run_corpus
from unmingle.cluster.isolation import Isolation
from unmingle.cluster.jobs import DenoisingJob, Job, SeparationJob
from unmingle.errors import UnmingleError
from unmingle.export import export_model
from unmingle.shares import parse_share
from unmingle.temporary import Replacement

FORK = multiprocessing.get_context("fork")


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def _run(job: Job, inputs: Path | str, output: Path | str, share: str = "1/1", **options: Any) -> None:
    where = Options([str(inputs)], str(output), options.pop("shard_size", 3), **options)
    run_corpus(job, where, in_this_process, parse_share(share))


def test_any_number_of_shares_in_any_order_gives_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    corpus = make_corpus(tmp_path / "in", 10, broken=(4,))
    job = SeparationJob(str(tiny_model), 2)
    for folder, shares in [
        ("one", ["1/1"]),
        ("three", ["3/3", "1/3", "2/3"]),
        ("many", ["9/9", *[f"{i}/9" for i in range(1, 9)]]),
    ]:
        for share in shares:
            _run(job, corpus, tmp_path / folder, share)
    one = contents(tmp_path / "one")
    assert len([name for name in one if name.endswith("_speaker2.wav")]) == 9
    assert one == contents(tmp_path / "three") == contents(tmp_path / "many")
    rows = _rows(tmp_path / "one")
    assert [row["status"] for row in rows].count("failed") == 1
    assert [row["id"] for row in rows] == [f"day{d}/{n:03d}" for d in range(3) for n in range(d, 10, 3)]
    assert rows[0]["outputs"] == ["day0/000_speaker1.wav", "day0/000_speaker2.wav"]
    assert rows[0]["speakers"] == 2


def test_the_command_does_a_manifest_with_broken_files(tmp_path: Path, tiny_denoiser: Path, run: Any) -> None:
    corpus = make_corpus(tmp_path / "in", 100, broken=(30,), seconds=0.05)
    lines = [json.dumps({"id": f"f{k}", "path": str(p)}) for k, p in enumerate(sorted(corpus.rglob("*.wav")))]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    arguments = ("denoise", "all.jsonl", "-o", "out", "--model", tiny_denoiser, "--shard-size", 40)
    assert run(*arguments, "--shard", "2/2").code == 0
    assert not Path("out/results.jsonl").exists()
    result: Result = run(*arguments, "--shard", "1/2")
    assert result.code == 2
    assert "2/2 shards, 60 files, 1 failed" in result.out
    assert "1 of 60 files failed" in result.err
    rows = _rows(Path("out"))
    assert [row["id"] for row in rows] == [f"f{k}" for k in range(100)]
    (failed,) = [row for row in rows if row["error"]]
    assert failed["input"].endswith("day0/030.wav")
    assert len(list(Path("out").glob("*_denoised.wav"))) == 99


def test_a_rerun_does_only_what_failed(tmp_path: Path, tiny_denoiser: Path) -> None:
    corpus = make_corpus(tmp_path / "in", 9, broken=(4,))
    job, out = DenoisingJob(str(tiny_denoiser)), tmp_path / "out"
    _run(job, corpus, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    tiny_sound(corpus / "day1" / "004.wav", 0.3)
    _run(job, corpus, out)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    touched = {path.relative_to(out).as_posix() for path in after if before.get(path) != after[path]}
    assert touched == {"day1/004_denoised.wav", "results/00001.jsonl", "results.jsonl"}
    assert [row["status"] for row in _rows(out)] == ["done"] * 9


@pytest.mark.parametrize("tar", [False, True])
def test_tar_files_and_object_stores_in_and_out(tmp_path: Path, tiny_denoiser: Path, tar: bool) -> None:
    corpus = make_corpus(tmp_path / "in", 6, broken=(2,))
    job = DenoisingJob(str(tiny_denoiser))
    _run(job, corpus, tmp_path / "local", shard_size=2, tar=tar)
    store = fsspec.filesystem("memory")
    for name, content in contents(corpus).items():
        store.pipe_file(f"/stored{tar}/in/{name}", content)
    _run(job, f"memory://stored{tar}/in", f"memory://stored{tar}/out", shard_size=2, tar=tar)
    local = contents(tmp_path / "local")
    remote = {path.split("/out/")[1]: store.cat_file(path) for path in store.find(f"/stored{tar}/out")}
    assert set(local) == set(remote)
    assert "results.jsonl" in local
    if not tar:
        assert all(local[name] == remote[name] for name in local if name.endswith(".wav"))
        return
    with tarfile.open(fileobj=io.BytesIO(local["00000.tar"])) as packed:
        assert packed.getnames() == [
            "day0/000_denoised.wav", "day0/000.json", "day0/003_denoised.wav", "day0/003.json"
        ]  # fmt: skip
        assert {member.mtime for member in packed} == {0}
    # A tar of outputs is an input like any other; a failed file of one is done again beside the others.
    again = tmp_path / "again"
    _run(job, tmp_path / "local" / "00002.tar", again, tar=True)
    assert [row["id"] for row in _rows(again)] == ["00002/day2/005_denoised"]
    tiny_sound(corpus / "day2" / "002.wav", 0.22)
    _run(job, corpus, tmp_path / "local", shard_size=2, tar=True)
    _run(job, corpus, tmp_path / "fresh", shard_size=2, tar=True)
    assert contents(tmp_path / "local") == contents(tmp_path / "fresh")


def test_other_options_and_foreign_folders_are_refused(tmp_path: Path, tiny_denoiser: Path) -> None:
    corpus, out = make_corpus(tmp_path / "in", 4), tmp_path / "out"
    _run(DenoisingJob(str(tiny_denoiser)), corpus, out)
    flac = DenoisingJob(str(tiny_denoiser), format="flac")
    with pytest.raises(UnmingleError, match="other options, inputs or another model"):
        _run(flac, corpus, out)
    with pytest.raises(UnmingleError, match="holds files of something else"):
        _run(flac, corpus, corpus, overwrite=True)
    _run(flac, corpus, out, overwrite=True)
    assert {path.suffix for path in out.rglob("*_denoised*")} == {".flac"}


def test_results_of_an_earlier_job_are_never_those_of_the_new_one(
    tmp_path: Path, tiny_denoiser: Path
) -> None:
    corpus, out = make_corpus(tmp_path / "in", 6), tmp_path / "out"
    _run(DenoisingJob(str(tiny_denoiser)), corpus, out, shard_size=1)
    (out / "results.jsonl").unlink()
    flac = DenoisingJob(str(tiny_denoiser), format="flac")
    _run(flac, corpus, out, "1/2", overwrite=True)
    assert not (out / "results.jsonl").exists()
    # Two of the six shards of the first job remain until the other half is done. Those beyond the new job's are gone.
    assert sorted(path.name for path in (out / "results").iterdir()) == ["00000.jsonl", "00001.jsonl"]
    _run(flac, corpus, out, "2/2", overwrite=True)
    _run(flac, corpus, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_another_shard_size_deletes_nothing_of_the_new_job(tmp_path: Path, tiny_denoiser: Path) -> None:
    corpus, out = make_corpus(tmp_path / "in", 6), tmp_path / "out"
    job = DenoisingJob(str(tiny_denoiser))
    _run(job, corpus, out, shard_size=1)
    # The second shard of the old job has a file that the first of the new job has finished.
    for share in ("1/2", "2/2"):
        _run(job, corpus, out, share, shard_size=3, overwrite=True)
    assert [row["status"] for row in _rows(out)] == ["done"] * 6
    assert all((out / name).exists() for row in _rows(out) for name in row["outputs"])


def test_a_tar_file_without_audio_is_a_failed_file(tmp_path: Path, tiny_denoiser: Path) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
        tar.add(__file__, "readme.txt")
    _run(DenoisingJob(str(tiny_denoiser)), tmp_path / "in", tmp_path / "out")
    (row,) = _rows(tmp_path / "out")
    assert row["status"] == "failed"
    assert "has no audio files" in row["error"]


def test_outputs_inside_the_input_folder_are_not_inputs(tmp_path: Path, tiny_denoiser: Path) -> None:
    corpus = make_corpus(tmp_path / "in", 4)
    for share in ("1/2", "2/2"):
        _run(DenoisingJob(str(tiny_denoiser)), corpus, corpus / "out", share)
    assert len(_rows(corpus / "out")) == 4


def test_a_missing_tar_file_of_results_is_named(tmp_path: Path, tiny_denoiser: Path) -> None:
    corpus, out = make_corpus(tmp_path / "in", 3, broken=(1,)), tmp_path / "out"
    _run(DenoisingJob(str(tiny_denoiser)), corpus, out, tar=True)
    (out / "00000.tar").unlink()
    with pytest.raises(UnmingleError, match=r"00000\.tar is missing; put it back"):
        _run(DenoisingJob(str(tiny_denoiser)), corpus, out, tar=True)


def test_a_file_of_a_process_that_was_killed_while_it_wrote_is_no_output(tmp_path: Path) -> None:
    corpus, out = make_corpus(tmp_path / "in", 3), tmp_path / "out"
    _run(LitterJob(), corpus, out)
    assert not list(out.rglob("*.partial"))
    assert len(list(out.rglob("*.copy"))) == 3


def test_an_exported_model_does_a_corpus_too(tmp_path: Path, tiny_model: Path) -> None:
    export_model(tiny_model, tmp_path / "exported")
    corpus = make_corpus(tmp_path / "in", 2)
    _run(SeparationJob(str(tmp_path / "exported"), 2), corpus, tmp_path / "out")
    assert [row["status"] for row in _rows(tmp_path / "out")] == ["done"] * 2


class CannotStart(PoisonJob):
    """A job whose process ends as it starts."""

    def open(self) -> Any:
        os._exit(1)


def test_a_process_that_cannot_start_is_told_and_no_file_is_blamed(tmp_path: Path) -> None:
    with (
        Isolation(CannotStart("x", tmp_path / "log")) as work,
        pytest.raises(UnmingleError, match="could not start"),
    ):
        work(tmp_path / "x.wav", "x", tmp_path)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/2", "²/4", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UnmingleError, match="--shard must be I/N"):
        parse_share(text)


@pytest.mark.parametrize(
    "options",
    [["--shard", "1/2", "--cluster", "auto"], ["--tar"], ["--shard-size", "5"], ["--shard", "3/2"]],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, run: Any, options: list[str]) -> None:
    tiny_sound(tmp_path / "a.wav")
    for command in ("separate", "denoise"):
        assert run(command, "a.wav", *options).code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def _process(job: Job, corpus: Path, out: Path) -> None:
    _run(job, corpus, out)


def test_a_file_that_kills_its_process_is_skipped_when_three_have_ended(tmp_path: Path) -> None:
    corpus, out = make_corpus(tmp_path / "in", 9), tmp_path / "out"
    job = PoisonJob("004", tmp_path / "deaths")
    codes: list[int | None] = []
    while not codes or codes[-1] != 0:
        process = FORK.Process(target=_process, args=(job, corpus, out))
        process.start()
        process.join(60)
        codes.append(process.exitcode)
    assert codes == [-9, 0]
    assert job.log.read_bytes() == b"xxx"
    rows = _rows(out)
    assert {row["id"]: row["status"] for row in rows if row["status"] != "done"} == {"day1/004": "skipped"}
    assert "ends every process that works on it" in next(row["error"] for row in rows if row["error"])
    assert len(list(out.rglob("*.copy"))) == 8
    _run(job, corpus, out)  # It is not tried again.
    assert job.log.read_bytes() == b"xxx"


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice_in_twenty_kills(tmp_path: Path, tiny_denoiser: Path) -> None:
    corpus = make_corpus(tmp_path / "in", 40, broken=(7,))
    job, out = DenoisingJob(str(tiny_denoiser)), tmp_path / "out"
    _run(job, corpus, tmp_path / "undisturbed")
    rng, kills = random.Random(0), 0
    written: dict[Path, tuple[int, int]] = {}
    while kills < 20:
        process = FORK.Process(target=_process, args=(job, corpus, out))
        process.start()
        process.join(rng.uniform(0.05, 0.4))
        if process.exitcode is not None:
            break
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        kills += 1
        for path in (out / "results").glob("*.jsonl"):
            state = path.stat().st_ino, path.stat().st_mtime_ns
            # Of the one with a broken file this does not hold: it is tried again.
            assert b'"failed"' in path.read_bytes() or written.setdefault(path, state) == state
    assert kills
    # What a killed process left half-written is removed by the next one, when it is a minute old.
    for path in out.rglob(".unmingle-*"):
        os.utime(path, (0, 0))
    process = FORK.Process(target=_process, args=(job, corpus, out))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_full_disk_stops_the_job_and_blames_no_file(
    tmp_path: Path, tiny_denoiser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out = make_corpus(tmp_path / "in", 6), tmp_path / "out"
    job = DenoisingJob(str(tiny_denoiser))
    _run(job, corpus, tmp_path / "undisturbed")
    real = Replacement.write

    def full(self: Replacement, content: bytes | memoryview) -> None:
        if self.path.suffix == ".wav" and len(list(out.rglob("*_denoised.wav"))) >= 3:
            raise OSError(28, "No space left on device")
        real(self, content)

    monkeypatch.setattr(Replacement, "write", full)
    with pytest.raises(UnmingleError, match="without --overwrite goes on when there is room"):
        _run(job, corpus, out)
    assert not (out / "results" / "00001.jsonl").exists()
    monkeypatch.undo()
    _run(job, corpus, out)
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_strength_holds_for_a_corpus_too(tmp_path: Path, tiny_denoiser: Path, run: Any) -> None:
    sound = tiny_sound(tmp_path / "a.wav", 0.5)
    arguments = ("denoise", sound, "--model", tiny_denoiser, "--strength", "0.5", "--threads", "1")
    assert run(*arguments, "-o", "plain").code == 0
    assert run(*arguments, "-o", "shard", "--shard", "1/1").code == 0
    assert run(*arguments[:-4], "-o", "full", "--shard", "1/1").code == 0
    plain, shard, full = (
        Path(folder, "a_denoised.wav").read_bytes() for folder in ("plain", "shard", "full")
    )
    assert plain == shard != full
