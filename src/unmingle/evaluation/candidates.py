"""What can be scored: a model, an oracle, the mixture itself, or any external program.

A config describes a candidate. Results store the config; worker processes and reports rebuild the candidate from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator

from unmingle.audio import Samples, resample
from unmingle.config import Config
from unmingle.device import pick_device
from unmingle.errors import UnmingleError
from unmingle.evaluation.external import EstimateError, ExternalProgram
from unmingle.models import file_hash, find_model, load_system
from unmingle.systems import MaskingSystem
from unmingle.systems.oracle import Oracle

_ROUNDING = 1e-5
"""A mixture minus its sources counts as noise if it has more than this share of the mixture's energy."""


@dataclass(frozen=True)
class CandidateOutput:
    """A candidate's estimates for one mixture."""

    sources: Samples
    """``(estimates, samples)``, as long as the mixture. The number of estimates may be wrong."""
    notes: tuple[str, ...] = ()
    """Problems that were corrected or tolerated, for example "3 files for 2 speakers"."""
    peak_bytes: int = 0
    """Peak memory of an external program."""
    counted: int | None = None
    """Number of speakers that the candidate counted; None if it was given the number."""
    confidence: float | None = None
    """Confidence in that count."""


Estimator = Callable[[Samples, Samples, int], CandidateOutput]
"""Mixture ``(samples,)``, references ``(sources, samples)`` and rate, to estimates; may raise ``EstimateError``."""


@dataclass(frozen=True)
class Candidate:
    """A system to be scored."""

    name: str
    estimate: Estimator
    details: dict[str, Any]


class CandidateConfig(Config):
    """Exactly one of ``mixture``, ``oracle``, ``model`` and ``command``."""

    mixture: bool = False
    """The mixture itself, as the estimate of every speaker: the baseline of improvements."""
    oracle: str | None = None
    """An ideal mask made from the references."""
    model: str | None = None
    """A model's name or path. Its raw estimates are scored, without the residual that ``separate`` distributes."""
    changes: dict[str, Any] = {}
    """Changes to the model's config, as in :func:`unmingle.models.load_system`. ``formation: oracle`` forms
    attractors from the references, as the "ideal" rows of the papers do."""
    counts: bool = False
    """The model counts the speakers instead of being given their number."""
    device: str = "cpu"
    command: str | None = None
    """An external program, see :class:`~unmingle.evaluation.external.ExternalProgram`."""
    timeout: float = Field(600.0, gt=0, allow_inf_nan=False)
    """Seconds that the program may take for one mixture."""

    @model_validator(mode="after")
    def _one(self) -> CandidateConfig:
        if sum((self.mixture, *(x is not None for x in (self.oracle, self.model, self.command)))) != 1:
            raise ValueError("give one of mixture, oracle, model and command")
        if self.counts and self.model is None:
            raise ValueError("only a model counts speakers")
        return self

    def build(self) -> Candidate:
        """Build the candidate.

        Raises:
            UnmingleError: the model, oracle or program does not exist or cannot be used.
        """
        if self.oracle is not None:
            return _oracle(self.oracle)
        if self.command is not None:
            program = ExternalProgram(self.command, self.timeout)
            return Candidate(program.name, lambda *given: CandidateOutput(*program.run(*given)), {})
        if self.model is not None:
            return _model(self.model, self.device, self.changes, self.counts)
        return Candidate(
            "mixture", lambda mixture, sources, _: CandidateOutput(np.stack([mixture] * len(sources))), {}
        )


def _oracle(name: str) -> Candidate:
    Oracle(name, 8000)  # Raises the error for an unknown name here, not at the first mixture.

    def estimate(mixture: Samples, sources: Samples, rate: int) -> CandidateOutput:
        # The mixture minus the sources is noise. It gets its own mask.
        rest = (mixture - sources.sum(axis=0))[None]
        noisy = np.square(rest).sum() > _ROUNDING * np.square(mixture).sum()
        parts = np.concatenate([sources, rest]) if noisy else sources
        if len(parts) < 2:
            raise EstimateError(
                "an oracle mask needs two sources, or one source and noise; there is one source"
            )
        separated = Oracle(name, rate).separate(
            torch.from_numpy(mixture).unsqueeze(0), torch.from_numpy(parts).unsqueeze(0)
        )
        return CandidateOutput(separated[0, : len(sources)].numpy())

    return Candidate(f"oracle-{name}", estimate, {"stft": "32 ms square root of Hann, every 8 ms"})


def _model(model: str, device: str, changes: dict[str, Any], counts: bool) -> Candidate:
    path, where = find_model(model), pick_device(device)
    system = load_system(path, where, changes)
    if counts and isinstance(system, MaskingSystem) and system.needs_sources:
        raise UnmingleError("Oracle attractors need the number of speakers; leave out --speakers auto.")

    def to_model(audio: Samples, rate: int) -> torch.Tensor:
        converted = np.ascontiguousarray(resample(audio, rate, system.sample_rate))
        return torch.from_numpy(converted).unsqueeze(0).to(where)

    def estimate(mixture: Samples, sources: Samples, rate: int) -> CandidateOutput:
        given = to_model(mixture, rate)
        if isinstance(system, MaskingSystem) and system.needs_sources:
            separated = system.separate(given, len(sources), to_model(sources, rate))
        else:
            separated = system.separate(given, None if counts else len(sources))
        raised = resample(separated.sources[0].cpu().numpy(), system.sample_rate, rate)
        fitted = np.zeros((len(raised), len(mixture)), dtype=np.float32)
        fitted[:, : raised.shape[1]] = raised[:, : len(mixture)]
        if not np.isfinite(fitted).all():
            raise EstimateError("an estimate is not finite")
        if not counts:
            return CandidateOutput(fitted)
        count = int(separated.count[0])
        return CandidateOutput(fitted[:count], counted=count, confidence=float(separated.confidence[0]))

    details: dict[str, Any] = {"model": path.stem, "sha256": file_hash(path), "rate": system.sample_rate}
    name = path.stem
    if changes:
        details["changes"] = changes
        name += "-" + "-".join(f"{key}-{value}" for key, value in changes.items())
    if Path(model).is_file() and name in ("last", "best"):
        name = f"{path.parent.name}-{name}"
    if counts:
        details["speakers"] = "counted by the model"
        name += "-counts"
    return Candidate(name, estimate, details)
