"""Training elsewhere: the data packed in parts, trained on the processor here, and the weights brought back."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, tiny_values
from unmingle.models import load_system

SCRIPT = ROOT / "benchmarks" / "gpu_run.py"
MODULE = runpy.run_path(str(SCRIPT), run_name="gpu_run")


def test_packed_parts_train_and_the_checkpoint_goes_on(
    crowd_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = crowd_corpus if crowd_corpus.is_dir() else crowd_corpus.parent
    parts = MODULE["pack"](corpus, tmp_path / "parts", 0.35)
    assert len(parts) > 1
    assert all(part.stat().st_size <= 0.35 * 2**20 for part in parts)
    values = {
        "system": tiny_values(),
        "stages": [
            {"seconds": 0.5, "steps": 8, "batch_size": 2, "validate_every": 4, "schedule": "constant"}
        ],
        "validation": {"count": 2, "seconds": 1.0},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def train(output: str, minutes: str, *options: str) -> None:
        command = ["train", "parts", "recipe.yaml", output, "--minutes", minutes, "--batch", "4", *options]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command])
        MODULE["main"]()

    train("out", "0")
    assert load_system(tmp_path / "out" / "model.safetensors").speakers == 2
    train("out", "0.001", "--resume")
    # On a fresh machine the checkpoint's parts lie beside the data.
    for part in (tmp_path / "out").glob("part*"):
        part.rename(tmp_path / "parts" / part.name)
    train("again", "5", "--resume")
    rows = (tmp_path / "again" / "log.csv").read_text().splitlines()
    assert rows[-1].split(",")[1] == "4"  # Half as many steps of twice the size.


def test_a_file_is_restored_completely_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 5000)
    assert len(MODULE["split"](tmp_path / "file", tmp_path / "parts", 0.5)) == 3
    MODULE["join"](tmp_path / "parts", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
    (tmp_path / "parts" / "part-01").write_bytes(b"other")
    with pytest.raises(SystemExit, match="not those of one file"):
        MODULE["join"](tmp_path / "parts", tmp_path / "worse")
    assert not (tmp_path / "worse").exists()
