"""A run's folder: checkpoints, the best model, the log and its picture.

RUN/recipe.json        what was asked, complete
RUN/last.checkpoint    weights, optimizer, generator and counters, to go on from
RUN/best.safetensors   the best model by validation, ready for `unmingle separate --model`
RUN/last.safetensors   the model as it is now
RUN/stage-N.safetensors  the model at the end of stage N
RUN/log.csv            one row for every validation
RUN/curve.png          the same as a picture
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from unmingle.errors import UnmingleError
from unmingle.temporary import alone, replace_files
from unmingle.training.recipe import Recipe

_OWN = re.compile(
    r"recipe\.json|last\.checkpoint|(best|last|stage-\d+)\.safetensors|log\.csv|curve\.png|\.unmingle-\w+\.partial"
)


@dataclass
class Progress:
    """How far a run has come."""

    stage: int = 0
    step: int = 0
    """Steps done in this stage."""
    total_steps: int = 0
    audio_seconds: float = 0.0
    """Seconds of mixtures seen."""
    work_seconds: float = 0.0
    """Seconds of wall time spent, validations included."""
    best: float = float("-inf")
    """Best validation SI-SDR improvement of the run, in dB."""
    stage_best: float = float("inf")
    """Least validation loss of this stage."""
    since_best: int = 0
    """Validations of this stage since that one."""
    factor: float = 1.0
    """What halvings have left of the learning rate."""


_FRESH = Progress()


@dataclass
class LogRow:
    """One validation."""

    stage: int
    step: int
    audio_hours: float
    minutes: float
    learning_rate: float
    loss: float
    validation_loss: float
    validation_si_sdr_improvement: float
    audio_seconds_per_second: float


class RunFolder:
    """Reads and writes the files of one run; every file is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "last.checkpoint"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.log = path / "log.csv"

    def stage(self, number: int) -> Path:
        """The model at the end of stage ``number``, counted from 1."""
        return self.path / f"stage-{number}.safetensors"

    def create(self, recipe: Recipe) -> None:
        """Make the folder and store the recipe in it."""
        replace_files([(self.path / "recipe.json", recipe.model_dump_json(indent=2).encode())])

    def check_same(self, recipe: Recipe) -> None:
        """Before going on: the run was begun with this recipe's variant, data and batch sizes.

        Raises:
            UnmingleError: it was not.
        """
        try:
            begun = Recipe.model_validate_json((self.path / "recipe.json").read_bytes())
        except (OSError, ValueError):
            return  # Of an older release; the checkpoint says whether the system fits.
        if begun.name == f"{recipe.name}-small":
            raise UnmingleError(
                f"{self.path} is a run of the recipe's small variant; add --small to go on with it."
            )
        for option, ours, theirs in (
            ("--data", recipe.data, begun.data),
            ("--noise", recipe.noise_data, begun.noise_data),
        ):
            if [os.path.realpath(path) for path in ours] != [os.path.realpath(path) for path in theirs]:
                raise UnmingleError(
                    f"{self.path} was begun with {option} {' '.join(theirs) or '(none)'}; go on with that, or begin "
                    "another run with --init-from."
                )
        for number, (stage, before) in enumerate(zip(recipe.stages, begun.stages, strict=False), start=1):
            if stage.batch_size != before.batch_size:
                raise UnmingleError(
                    f"{self.path} was begun with a batch_size of {before.batch_size} in stage {number}, "
                    f"the recipe has {stage.batch_size}; go on with that, or begin another run with --init-from."
                )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else trains in this folder meanwhile.

        Raises:
            UnmingleError: somebody does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with alone(self.path, "training"):
                yield
        finally:
            with suppress(OSError):  # Something is in it, mostly.
                self.path.rmdir()

    def remove(self) -> None:
        """Remove the run, if the folder holds one and nothing else.

        Raises:
            UnmingleError: it holds something else.
        """
        if not os.path.lexists(self.path):
            return
        if self.path.is_symlink() or not self.path.is_dir() or self.others():
            raise UnmingleError(f"{self.path} holds something else than a run; name another folder with -o.")
        shutil.rmtree(self.path, ignore_errors=True)

    def others(self) -> list[str]:
        """Names in the folder that no run writes."""
        return sorted(path.name for path in self.path.iterdir() if not _OWN.fullmatch(path.name))

    def save(self, state: dict[str, Any], progress: Progress) -> None:
        """Write the checkpoint; a kill at any moment leaves the old one or the new one."""
        # In memory first: torch does not tell when the disk is full, the operating system does.
        encoded = io.BytesIO()
        torch.save({**state, "progress": asdict(progress)}, encoded)
        replace_files([(self.checkpoint, encoded.getbuffer())])

    def load(self) -> tuple[dict[str, Any], Progress]:
        """The checkpoint's state and progress.

        Raises:
            UnmingleError: there is none, or it is damaged.
        """
        if not self.checkpoint.is_file():
            raise UnmingleError(f"{self.path} has no checkpoint to resume; start it without --resume.")
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            progress = Progress(**state.pop("progress"))
            for name, value in asdict(progress).items():
                # What a hand-made file says otherwise would be found in the middle of the work.
                if type(value) is not type(getattr(_FRESH, name)) or value != value:
                    raise TypeError(f"{name} is {value!r}")
            return state, progress
        except Exception as error:  # torch and pickle raise almost anything.
            raise UnmingleError(f"{self.checkpoint} is damaged; start the run anew.") from error

    def add_row(self, row: LogRow) -> None:
        """Append to the log; rows of this step or a later one, that a killed run left, are replaced."""
        kept = [old for old in self._rows() if (int(old["stage"]), int(old["step"])) < (row.stage, row.step)]
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([field.name for field in fields(LogRow)])
        writer.writerows(old.values() for old in kept)
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in asdict(row).values()])
        replace_files([(self.log, text.getvalue().encode())])

    def _rows(self) -> list[dict[str, str]]:
        if not self.log.exists():
            return []
        with self.log.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def draw_curve(self) -> None:
        """Picture of loss and validation score over the hours of audio seen."""
        from matplotlib.figure import Figure

        rows = self._rows()
        hours = [float(row["audio_hours"]) for row in rows]
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        left = figure.subplots()
        left.plot(hours, [float(row["loss"]) for row in rows], color="tab:gray", label="training loss")
        left.set_xlabel("hours of mixtures seen")
        left.set_ylabel("training loss")
        right = left.twinx()
        scores = [float(row["validation_si_sdr_improvement"]) for row in rows]
        right.plot(hours, scores, color="tab:blue", marker=".")
        right.set_ylabel("validation SI-SDR improvement (dB)", color="tab:blue")
        encoded = io.BytesIO()
        figure.savefig(encoded, format="png", dpi=120)
        replace_files([(self.path / "curve.png", encoded.getbuffer())])
