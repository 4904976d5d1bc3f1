"""The training loop on Lightning Fabric: stages, validation, checkpoints, resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from lightning_fabric import Fabric

from unmingle.batch import MixtureBatch
from unmingle.data.batches import Crops, iterate
from unmingle.device import has_fast_bfloat16
from unmingle.errors import UnmingleError
from unmingle.models import save_system
from unmingle.systems import EmbeddingSeparator, System, build_system
from unmingle.training.averaging import WeightAverage
from unmingle.training.fixed_attractors import collect_fixed_attractors, store_fixed_attractors
from unmingle.training.initial import fresh_system, system_from_model
from unmingle.training.mixtures import Validation, training_mixer
from unmingle.training.recipe import Recipe, Stage
from unmingle.training.run_folder import LogRow, Progress, RunFolder
from unmingle.training.schedule import adapt_rate, build_optimizer, learning_rate

_CHECKPOINT_SECONDS = 240.0
_FIXED_MIXTURES = 200
"""Number of mixtures from which fixed attractors are collected at each validation."""


@dataclass(frozen=True)
class Options:
    """How to run a recipe. Only ``minutes``, ``init_from`` and ``device`` change the result."""

    resume: bool = False
    init_from: str | None = None
    minutes: float | None = None
    threads: int | None = None
    processes: int = 1
    """On each of ``nodes`` machines."""
    nodes: int = 1
    device: str = "cpu"
    workers: int = 1
    cache: Path | None = None


@dataclass(frozen=True)
class Report:
    """State after a step, for the progress bar."""

    progress: Progress
    stage: Stage
    stages: int
    loss: float
    score: float | None
    """SI-SDR improvement in dB at the last validation."""
    speed: float
    """Seconds of audio per second."""
    seconds_left: float


def _speakers(stage: Stage) -> tuple[int | None, int | None]:
    return stage.fewest_speakers, stage.most_speakers


class TrainingLoop:
    """Trains a system by a recipe in this process, one of ``fabric.world_size``."""

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        folder: RunFolder,
        options: Options,
        on_step: Callable[[Report], None] | None,
    ) -> None:
        self.fabric, self.recipe, self.folder, self.options = fabric, recipe, folder, options
        self.on_step = on_step
        fabric.seed_everything(recipe.seed + fabric.global_rank, verbose=False)
        self.mixer = training_mixer(recipe, options.cache)
        self.system = self._first_system()
        self.progress = Progress()
        self.score: float | None = None
        self.module, self.optimizer = fabric.setup(self.system, build_optimizer(recipe, self.system))
        self.module.mark_forward_method("loss")
        self.average = WeightAverage(self.system, recipe.average) if recipe.average else None
        self.stage_best: dict[str, torch.Tensor] | None = None
        """Weights at the least validation loss of this stage, if the stage keeps them."""
        self.validation: Validation | None = None
        if options.resume:
            self._restore()
        self.stopped = False
        self.bfloat16 = recipe.precision == "bf16-mixed" and has_fast_bfloat16(options.device)

    def run(self) -> Progress:
        """Train until the last stage ends or the time is up."""
        self.began = time.monotonic() - self.progress.work_seconds
        self.session_began = time.monotonic()
        self.saved_at = time.monotonic()
        while self.progress.stage < len(self.recipe.stages) and not self.stopped:
            stage = self.recipe.stages[self.progress.stage]
            self.system.choose_part(stage.part)
            self._prepare_validation(stage)
            self._run_stage(stage)
            if not self.stopped:
                self._restore_stage_best()
                if self.fabric.is_global_zero:
                    self._save_model(self.folder.stage(self.progress.stage + 1))
                self.progress = replace(
                    self.progress,
                    stage=self.progress.stage + 1,
                    step=0,
                    stage_best=math.inf,
                    since_best=0,
                    factor=1.0,
                )
                self._save()
        return self.progress

    def _prepare_validation(self, stage: Stage) -> None:
        """Use validation mixtures with the stage's numbers of speakers."""
        number, stages = self.progress.stage, self.recipe.stages
        changed = number > 0 and _speakers(stages[number - 1]) != _speakers(stage)
        if changed and self.progress.step == 0:
            self.progress.best = -math.inf  # Scores on other mixtures cannot be compared.
        if changed or self.validation is None:
            fabric = self.fabric
            self.validation = Validation(
                self.recipe, self.options.cache, fabric.global_rank, fabric.world_size, stage
            )

    def _keep_stage_best(self) -> None:
        """Keep a copy of the weights that were just validated."""
        with self._kept_weights():
            self.stage_best = {name: value.clone() for name, value in self.system.state_dict().items()}

    def _restore_stage_best(self) -> None:
        """End a stage with the weights of its least validation loss, if it keeps them."""
        if self.stage_best is None:
            return
        self.system.load_state_dict(self.stage_best)
        self.stage_best = None
        if self.average is not None:
            self.average.restart()

    def _batches(self, stage: Stage) -> Iterator[MixtureBatch]:
        # Every stage has its own sequence of mixtures.
        self.mixer = training_mixer(self.recipe, self.options.cache, stage)
        self.mixer.seed = self.recipe.seed + 1_000_003 * self.progress.stage
        crops = Crops(
            self.mixer,
            stage.seconds,
            stage.batch_size,
            first_batch=self.progress.step,
            batches=stage.steps,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        return iterate(crops, self.options.workers)

    def _run_stage(self, stage: Stage) -> None:
        losses: list[float] = []
        marked, marked_audio = time.monotonic(), self.progress.audio_seconds
        for batch in self._batches(stage):
            loss = self._step(stage, batch.to(self.fabric.device))
            losses.append(loss)
            self.progress.step += 1
            self.progress.total_steps += 1
            self.progress.audio_seconds += stage.batch_size * stage.seconds
            self.progress.work_seconds = time.monotonic() - self.began
            elapsed = time.monotonic() - marked
            speed = (self.progress.audio_seconds - marked_audio) / max(elapsed, 1e-9)
            self._report(stage, loss, speed)
            if self.progress.step % stage.validate_every == 0 or self.progress.step == stage.steps:
                self._validate(stage, sum(losses) / len(losses), speed)
                losses, marked, marked_audio = [], time.monotonic(), self.progress.audio_seconds
                if stage.patience is not None and self.progress.since_best >= stage.patience:
                    return
            minutes = self.options.minutes
            over = minutes is not None and time.monotonic() - self.session_began > 60 * minutes
            due = over or time.monotonic() - self.saved_at > _CHECKPOINT_SECONDS
            # One process decides for all, because saving gathers the generators of all processes.
            over, due = self.fabric.broadcast((over, due))
            if over:
                if losses:  # A run that stops is validated, and saves its best model.
                    self._validate(stage, sum(losses) / len(losses), speed)
                self.stopped = True
                return
            if due:
                self._save()

    def _step(self, stage: Stage, batch: MixtureBatch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(stage, self.progress)
        # Not Fabric's bf16-mixed, which also rounds the audio if several processes share a batch.
        with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.module.loss(batch)["loss"]
        if not torch.isfinite(loss):
            raise UnmingleError(
                f"The loss is not finite at step {self.progress.total_steps}; lower the learning rate and resume."
            )
        self.fabric.backward(loss)
        if self.recipe.clip_norm is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        return float(loss.detach())

    def _kept_weights(self) -> AbstractContextManager[None]:
        """Context with the weights to validate and save: those of the last step, or their average."""
        return nullcontext() if self.average is None else self.average.applied()

    def _validate(self, stage: Stage, loss: float, speed: float) -> None:
        with self._kept_weights():
            system = self.system.trained_system()
            if isinstance(system, EmbeddingSeparator) and system.formation.collected:
                points = collect_fixed_attractors(system, self.mixer, _FIXED_MIXTURES, stage.seconds)
                store_fixed_attractors(system, points)
            assert self.validation is not None
            sums = self.validation.sums(self.system, self.fabric.device)
        total = cast(torch.Tensor, self.fabric.all_reduce(sums, reduce_op="sum"))
        self.score = float(total[0] / total[1].clamp_min(1))
        validation_loss = float(total[2] / total[3])
        progress = self.progress
        # A stop in the middle of an epoch is validated, but does not count as an epoch in the schedule.
        if progress.step % stage.validate_every == 0 or progress.step == stage.steps:
            adapt_rate(stage, progress, validation_loss)
            if stage.keeps_best and progress.since_best == 0:
                self._keep_stage_best()
        best = self.score > progress.best
        progress.best = max(progress.best, self.score)
        progress.work_seconds = time.monotonic() - self.began
        if self.fabric.is_global_zero:
            if best:
                self._save_model(self.folder.best)
            row = LogRow(
                progress.stage + 1,
                progress.total_steps,
                progress.audio_seconds / 3600,
                progress.work_seconds / 60,
                learning_rate(stage, self.progress),
                loss,
                validation_loss,
                self.score,
                speed,
            )
            self.folder.add_row(row)
            self.folder.draw_curve()
        self._save()

    def _save_model(self, path: Path) -> None:
        facts = self.recipe.facts.model_copy(
            update={
                "audio_hours": round(self.progress.audio_seconds / 3600, 2),
                "score": f"{self.score:.2f} dB SI-SDRi (validation)"
                if self.score is not None
                else "not stated",
            }
        )
        with self._kept_weights():
            save_system(self.system.trained_system(), path, facts)

    def _save(self) -> None:
        gathered = self.fabric.all_gather(self._generators())
        generators = cast(torch.Tensor, gathered).reshape(self.fabric.world_size, -1)
        if self.fabric.is_global_zero:
            state = {
                "config": self.system.config.model_dump_json(),
                "system": self.system.state_dict(),
                "optimizer_name": self.recipe.optimizer,
                "optimizer": self.optimizer.optimizer.state_dict(),
                "generators": generators,
                "score": self.score,
            }
            if self.average is not None:
                state["average"] = self.average.state_dict()
            if self.stage_best is not None:
                state["stage_best"] = self.stage_best
            self.folder.save(state, self.progress)
            self._save_model(self.folder.last)
        self.saved_at = time.monotonic()

    def _generators(self) -> torch.Tensor:
        """The states of the random generators: the processor's, then the GPU's if the training runs on one."""
        states = [torch.get_rng_state()]
        if self.fabric.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.fabric.device))
        return torch.cat(states)

    def _set_generators(self, states: torch.Tensor) -> None:
        size = len(torch.get_rng_state())
        # Copies: torch.set_rng_state crashes on a part of a larger tensor (torch 2.13).
        torch.set_rng_state(states[:size].clone())
        if self.fabric.device.type == "cuda" and len(states) > size:
            torch.cuda.set_rng_state(states[size:].clone(), self.fabric.device)

    def _restore(self) -> None:
        state, self.progress = self.folder.load()
        self.system.load_state_dict(state["system"])
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        if len(state["generators"]) == self.fabric.world_size:
            self._set_generators(state["generators"][self.fabric.global_rank])
        if self.average is not None and "average" in state:
            self.average.load_state_dict(state["average"])
        self.stage_best = state.get("stage_best")
        self.score = state["score"]

    def _first_system(self) -> System:
        if self.options.resume:
            return build_system(self.recipe.system)  # The checkpoint has its weights.
        if self.options.init_from:
            return system_from_model(self.recipe, self.options.init_from, self.mixer)
        return fresh_system(self.recipe, self.mixer)

    def _report(self, stage: Stage, loss: float, speed: float) -> None:
        if self.on_step is None:
            return
        later = self.recipe.stages[self.progress.stage + 1 :]
        left = (stage.steps - self.progress.step) * stage.batch_size * stage.seconds
        left += sum(other.steps * other.batch_size * other.seconds for other in later)
        seconds_left = left / max(speed, 1e-9)
        if self.options.minutes is not None:
            remaining = 60 * self.options.minutes - (time.monotonic() - self.session_began)
            seconds_left = min(seconds_left, max(0.0, remaining))
        self.on_step(
            Report(
                replace(self.progress), stage, len(self.recipe.stages), loss, self.score, speed, seconds_left
            )
        )
