"""Worker processes: none outlives its parent, and functions that a platform lacks are not needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import all_end
from unmingle import temporary, workers
from unmingle.errors import UnmingleError
from unmingle.evaluation.external import ExternalProgram
from unmingle.temporary import exclusive_access, replace_files
from unmingle.workers import available_cores, peak_memory, worker_pool

_SCRIPT = """
import os, sys, time
from unmingle.workers import worker_pool
def work(number):
    os.write(1, b"%d\\n" % os.getpid())  # one write: lines of two processes do not mix
    time.sleep(300)
if __name__ == "__main__":
    with worker_pool(2) as pool:
        list(pool.map(work, range(2)))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert all_end(children)


def _end(_: int) -> None:
    os._exit(1)


def test_a_killed_worker_gives_a_one_sentence_error() -> None:
    with pytest.raises(UnmingleError, match="worker process was killed"), worker_pool(1) as pool:
        list(pool.map(_end, range(1)))


def test_cores_if_the_system_does_not_report_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS, Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert available_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_memory_by_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    linux = peak_memory()
    assert linux > 10 * 2**20
    monkeypatch.setattr(workers.sys, "platform", "darwin")  # type: ignore[attr-defined]
    assert peak_memory() == pytest.approx(linux / 1024, rel=0.5)
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert peak_memory() == 0


def test_a_program_is_run_and_ended_without_killpg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")  # Windows
    code = "import sys, shutil as s; s.copy(sys.argv[1], sys.argv[2] + '/1.wav'); s.copy(sys.argv[1], sys.argv[2])"
    program = ExternalProgram(f'{sys.executable} -c "{code}" {{mixture}} {{outdir}}', 60.0)
    mixture = 0.1 * np.sin(np.arange(8000)).astype(np.float32)
    estimates, _, _ = program.run(mixture, np.stack([mixture, mixture]), 8000)
    np.testing.assert_allclose(estimates, np.stack([mixture, mixture]), atol=1e-4)


def test_files_are_replaced_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "fcntl", None)  # Windows
    with exclusive_access(tmp_path, "mixing"):
        replace_files([(tmp_path / "a", b"x")])
    assert (tmp_path / "a").read_bytes() == b"x"
