"""Training in several processes, however they are started."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from conftest import all_end, tiny_values
from training_runs import log_rows, run_together, tiny_recipe, train_command, weights_of
from unmingle.errors import UnmingleError
from unmingle.training.launch import train
from unmingle.training.loop import Options
from unmingle.training.run_folder import RunFolder


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.parametrize(
    ("started", "precision"),
    [("by torchrun", "32-true"), ("by srun", "bf16-mixed"), ("by hand on two machines", "32-true")],
)
def test_two_processes_however_started_train_the_same_model(
    started: str, precision: str, example_corpus: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(example_corpus, steps=3, system=tiny_values(), precision=precision)
    two = ["--processes", "2"]
    environments: list[dict[str, str]]
    if started == "by torchrun":
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", _free_port()]
        commands, environments = [[*torchrun, *train_command(tmp_path, recipe, "two", *two)]], [{}]
    elif started == "by srun":
        job = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
        job |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0", "MASTER_PORT": _free_port()}
        commands = [train_command(tmp_path, recipe, "two", *two)] * 2
        environments = [job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]
    else:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
        commands = [train_command(tmp_path, recipe, "two", "--nodes", "2")] * 2
        environments = [meeting | {"NODE_RANK": rank} for rank in "01"]
    ended = run_together(commands, environments)
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    # One process tells the end, whoever started them.
    assert sum(text.count("best validation") for _, text, _ in ended) == 1
    train(recipe, tmp_path / "one", Options(workers=0))
    # The mean of two halves' gradients is the whole batch's, so the weights agree; were the audio rounded to
    # bfloat16 with the network, they would differ by 1e-4 in the mean.
    difference = (weights_of(tmp_path / "two") - weights_of(tmp_path / "one")).abs()
    assert difference.max() < 1e-3
    assert difference.mean() < 1e-5
    assert [row["step"] for row in log_rows(tmp_path / "two")] == [
        row["step"] for row in log_rows(tmp_path / "one")
    ]


def test_two_processes_go_on_where_one_stopped(example_corpus: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(example_corpus, system=tiny_values())
    train(recipe, tmp_path / "two", Options(workers=0, minutes=0.0))
    assert RunFolder(tmp_path / "two").load()[1].total_steps == 1
    command = train_command(tmp_path, recipe, "two", "--processes", "2", "--resume")
    ((code, _, text),) = run_together([command], [{}])
    assert code == 0, text
    assert RunFolder(tmp_path / "two").load()[1].total_steps == 6
    train(recipe, tmp_path / "one", Options(workers=0))
    torch.testing.assert_close(
        weights_of(tmp_path / "two"), weights_of(tmp_path / "one"), atol=1e-5, rtol=1e-4
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_trains_on_when_the_first_is_killed(
    killed_by: signal.Signals, example_corpus: Path, tmp_path: Path
) -> None:
    command = train_command(
        tmp_path, tiny_recipe(example_corpus, steps=100_000, system=tiny_values()), "run", "--processes", "2"
    )
    # PyTorch sends its processes SIGINT then, which commands in the background of a script ignore.
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL, preexec_fn=ignore) as first:
        try:
            deadline = time.monotonic() + 120
            while not RunFolder(tmp_path / "run").checkpoint.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
            first.send_signal(killed_by)
            assert first.wait(20) != 0
        finally:
            first.kill()
    assert len(children) >= 2
    assert all_end([int(child) for child in children])


def test_machines_that_do_not_know_each_other_are_refused(
    example_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(example_corpus, system=tiny_values())
    with pytest.raises(UnmingleError, match="MASTER_ADDR, MASTER_PORT, NODE_RANK"):
        train(recipe, tmp_path / "run", Options(nodes=2))
    job = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for name, value in (job | {"SLURM_NODEID": "0"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnmingleError, match="4 processes in all"):
        train(recipe, tmp_path / "run", Options(processes=2))
    assert not (tmp_path / "run").exists()
