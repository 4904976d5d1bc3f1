"""Temporary files: unique, removed after a kill, and only regular files are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unmingle import temporary
from unmingle.audio import write_audio
from unmingle.audio_blocks import AudioWriter
from unmingle.denoising import denoise_files, load_denoiser
from unmingle.errors import UnmingleError
from unmingle.file_batches import Output
from unmingle.temporary import Replacement, check_writable, exclusive_access, replace_files, temporary_folder


def test_threads_of_one_process_write_each_its_own_files(tmp_path: Path, tiny_denoiser: Path) -> None:
    names = [f"t{number}" for number in range(4)]
    rng = np.random.default_rng(0)
    for name in names:
        soundfile.write(tmp_path / f"{name}.wav", 0.05 * rng.standard_normal(40000), 16000)
    enhancers = [load_denoiser(tiny_denoiser) for _ in names]

    def work(folder: str, number: int) -> None:
        denoise_files([tmp_path / f"{names[number]}.wav"], enhancers[number], Output(tmp_path / folder))

    threads = [threading.Thread(target=work, args=("together", number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, name in enumerate(names):
        work("alone", number)
        written = tmp_path / "together" / f"{name}_speaker1.wav"
        assert written.read_bytes() == (tmp_path / "alone" / written.name).read_bytes()


def test_two_processes_of_one_number_do_not_share_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # As in containers, where every process has the id 1.
    with AudioWriter(tmp_path / "a.wav", 8000, 1, "wav") as one:
        one.write(np.full((1, 100), 0.25, dtype=np.float32))
        with AudioWriter(tmp_path / "b.wav", 8000, 1, "wav") as other:
            other.write(np.full((1, 50), 0.5, dtype=np.float32))
        write_audio(tmp_path / "c.wav", np.zeros(10, dtype=np.float32), 8000)
    assert soundfile.read(tmp_path / "a.wav")[0].tolist() == [0.25] * 100
    assert soundfile.read(tmp_path / "b.wav")[0].tolist() == [0.5] * 50
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mode_is_what_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        replace_files([(tmp_path / "a", b"x")])
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UnmingleError, match="not replaced"):
            replace_files([(tmp_path / name, b"x")])
    with pytest.raises(UnmingleError, match="not replaced"):
        replace_files([(Path("/dev/null"), b"x")])
    assert Path("/dev/null").is_char_device()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    replace_files([(tmp_path / "link", b"x")])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


def test_files_of_a_killed_process_are_removed_and_files_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from unmingle.temporary import Replacement;"
        "r = Replacement(Path(sys.argv[1])); r.write(b'half'); print(r.partial, flush=True); time.sleep(60)"
    )
    killed, living = (
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "x"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    try:
        paths = [Path(process.stdout.readline().strip()) for process in (killed, living)]  # type: ignore[union-attr]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        for path in paths:
            os.utime(path, (time.time() - 3600,) * 2)
        monkeypatch.setattr(temporary, "_swept", set())
        replace_files([(tmp_path / "y", b"whole")])
        assert [path.exists() for path in paths] == [False, True]
    finally:
        living.kill()
        for process in (killed, living):
            process.communicate()


def test_new_folders_are_removed_after_a_failure(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with Replacement(folder / "file"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "a" / "b")
    with temporary_folder(tmp_path / "c" / "d") as made:
        (made / "x").write_text("x")
        assert made.parent == tmp_path / "c"
    assert not [path for path in tmp_path.iterdir() if path.name in ("a", "c")]


def test_an_unwritable_folder_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnmingleError, match="cannot be written"):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(UnmingleError, match="cannot be written"):
        check_writable(Path("/proc/nobody/writes/here"))
    check_writable(tmp_path / "not" / "yet")
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["file"]


def test_only_one_process_has_exclusive_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_PATIENCE_SECONDS", 0.1)
    twice = pytest.raises(UnmingleError, match="Another process is mixing")
    with exclusive_access(tmp_path, "mixing"), twice, exclusive_access(tmp_path, "mixing"):
        pass
    with exclusive_access(tmp_path, "mixing"):
        pass
