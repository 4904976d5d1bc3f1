"""The folder of a training run: checkpoint, models, log and learning curve.

RUN/recipe.json        the complete recipe
RUN/last.checkpoint    weights, optimizer, generator and counters, to resume from
RUN/best.safetensors   the best model by validation, ready for `unmingle separate --model`
RUN/last.safetensors   the current model
RUN/stage-N.safetensors  the model at the end of stage N
RUN/log.csv            one row per validation
RUN/curve.png          a plot of the log
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from unmingle.errors import UnmingleError
from unmingle.temporary import exclusive_access, replace_files
from unmingle.training.recipe import Recipe

_OWN = re.compile(
    r"recipe\.json|last\.checkpoint|(best|last|stage-\d+)\.safetensors|log\.csv|curve\.png|\.unmingle-\w+\.partial"
)


@dataclass
class Progress:
    """Progress of a run."""

    stage: int = 0
    step: int = 0
    """Steps done in this stage."""
    total_steps: int = 0
    audio_seconds: float = 0.0
    """Seconds of mixtures used for training."""
    work_seconds: float = 0.0
    """Wall time in seconds, including validation."""
    best: float = float("-inf")
    """Best validation SI-SDR improvement of the run, in dB."""
    stage_best: float = float("inf")
    """Least validation loss of this stage."""
    since_best: int = 0
    """Validations of this stage since the least validation loss."""
    factor: float = 1.0
    """Factor of the learning rate after all halvings."""


_FRESH = Progress()


@dataclass
class LogRow:
    """Log entry of one validation."""

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
    """Reads and writes the files of one run. Every file is replaced atomically."""

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
        """Create the folder and store the recipe in it."""
        replace_files([(self.path / "recipe.json", recipe.model_dump_json(indent=2).encode())])

    def check_same(self, recipe: Recipe) -> None:
        """Check before resuming that the run has this recipe's variant, data and batch sizes.

        Raises:
            UnmingleError: it has others.
        """
        try:
            started = Recipe.model_validate_json((self.path / "recipe.json").read_bytes())
        except (OSError, ValueError):
            return  # Written by an older release; loading the checkpoint checks the system.
        if started.name == f"{recipe.name}-small":
            raise UnmingleError(
                f"{self.path} is a run of the recipe's small variant; add --small to continue it."
            )
        for option, ours, theirs in (
            ("--data", recipe.data, started.data),
            ("--noise", recipe.noise_data, started.noise_data),
        ):
            if [os.path.realpath(path) for path in ours] != [os.path.realpath(path) for path in theirs]:
                raise UnmingleError(
                    f"{self.path} was started with {option} {' '.join(theirs) or '(none)'}; use the same, or start "
                    "another run with --init-from."
                )
        for number, (stage, before) in enumerate(zip(recipe.stages, started.stages, strict=False), start=1):
            if stage.batch_size != before.batch_size:
                raise UnmingleError(
                    f"{self.path} was started with a batch_size of {before.batch_size} in stage {number}, "
                    f"the recipe has {stage.batch_size}; use the same, or start another run with --init-from."
                )

    @contextmanager
    def exclusive_access(self) -> Iterator[None]:
        """Exclusive access to this folder.

        Raises:
            UnmingleError: another process trains in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with exclusive_access(self.path, "training"):
                yield
        finally:
            with suppress(OSError):  # Fails if the folder is not empty, which is the normal case.
                self.path.rmdir()

    def clear(self) -> None:
        """Remove the run's files if the folder contains nothing else. The folder stays.

        Raises:
            UnmingleError: the folder contains other files.
        """
        if self.path.is_symlink() or not self.path.is_dir() or self.others():
            raise UnmingleError(
                f"{self.path} contains files that no run writes; choose another folder with -o."
            )
        for path in self.path.iterdir():
            path.unlink(missing_ok=True)

    def others(self) -> list[str]:
        """Names in the folder that are not files of a run."""
        return sorted(path.name for path in self.path.iterdir() if not _OWN.fullmatch(path.name))

    def save(self, state: dict[str, Any], progress: Progress) -> None:
        """Write the checkpoint. If the process is killed, the old or the new checkpoint remains."""
        # Written to memory first: torch does not report a full disk, the operating system does.
        encoded = io.BytesIO()
        torch.save({**state, "progress": asdict(progress)}, encoded)
        replace_files([(self.checkpoint, encoded.getbuffer())])

    def load(self) -> tuple[dict[str, Any], Progress]:
        """The checkpoint's state and progress.

        Raises:
            UnmingleError: there is no checkpoint, or it is damaged.
        """
        if not self.checkpoint.is_file():
            raise UnmingleError(f"{self.path} has no checkpoint to resume; start it without --resume.")
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            progress = Progress(**state.pop("progress"))
            for name, value in asdict(progress).items():
                # An edited file would otherwise cause an error in the middle of the work.
                if type(value) is not type(getattr(_FRESH, name)) or value != value:
                    raise TypeError(f"{name} is {value!r}")
            return state, progress
        except Exception as error:  # torch and pickle raise almost anything.
            raise UnmingleError(f"{self.checkpoint} is damaged; start a new run.") from error

    def add_row(self, row: LogRow) -> None:
        """Append to the log. Rows of this step or later, left by a killed run, are replaced."""
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
        """Plot loss and validation score over the hours of training audio."""
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
