"""Recipes: one YAML file contains all settings of a training run, and no code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from unmingle.config import Config
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.streaming import StreamConfig
from unmingle.errors import UnmingleError, reason
from unmingle.file_batches import available_memory
from unmingle.models import ModelFacts
from unmingle.systems import AnySystemConfig, build_system

_MOST_FILES, _MOST_BYTES, _MOST_VALUES = 100, 10**6, 10**5
_LARGEST = {
    "layers": 64, "refiner_layers": 64, "blocks": 64, "repeats": 64, "hidden_size": 2**16, "channels": 2**16,
    "dimension": 4096, "anchors": 64, "speakers": 64, "hop": 2**16, "window_length": 2**18, "experts": 256,
    "snr": 200, "snr_levels": 200, "snr_spread": 200, "bank": 10**6, "iterations": 10**5, "sample_rate": 768_000,
    "learning_rate": 1e30,
}  # fmt: skip
"""Limits by name, in any part of a recipe, of numbers that decide the memory and time of a system."""


class ValidationConfig(Config):
    """Fixed validation mixtures of the validation split, at original speed and by default with full overlap."""

    count: int = Field(100, ge=1, le=100_000)
    seconds: float = Field(4.0, ge=0.05, le=600.0)
    seed: int = Field(1, ge=0, lt=2**32)
    conversations: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the validation mixtures that are conversations with the settings of ``mixing.conversation``."""


class Stage(Config):
    """One stage of the curriculum. It starts from the weights with which the previous stage ends."""

    seconds: float = Field(ge=0.05, le=600.0)
    """Length of a crop. At a hop of 8 ms, the papers' 100 frames are 0.8 s and their 400 frames 3.2 s."""
    steps: int = Field(ge=1, le=10**9)
    """Maximum number of steps."""
    batch_size: int = Field(16, ge=1, le=4096)
    learning_rate: float = Field(1e-3, gt=0.0, le=1e30)
    warmup_steps: int = Field(0, ge=0, le=10**9)
    """Number of steps in which the learning rate rises from zero."""
    schedule: Literal["plateau", "constant", "halving", "decay", "exponential"] = "plateau"
    """Learning rate. ``plateau``: halved after ``halve_after`` validations without a better loss (Luo et al.).
    ``halving``: halved after every ``halve_after`` validations (Isik et al.). ``decay``: linear to zero over the
    stage. ``exponential``: multiplied by ``decay_factor`` every ``decay_steps`` steps (Mobin et al. for DANet)."""
    fewest_speakers: int | None = Field(None, ge=1, le=64)
    """Minimum number of speakers in this stage's mixtures, also in validation (default: that of ``mixing``)."""
    most_speakers: int | None = Field(None, ge=1, le=64)
    """Maximum number of speakers, likewise. Other sources are silent (default: that of ``mixing``)."""
    part: str = "all"
    """The part to train, one of the system's ``trainable_parts``. For two-stage systems: ``first``; ``second`` with
    the first fixed; ``all``. For local experts: ``apart``, each part by itself; ``gate``, only the gate; ``choice``,
    only the gate, by the errors of its choices; ``all``, together through the soft gate."""
    halve_after: int = Field(3, ge=1, le=10**6)
    decay_factor: float = Field(0.95, gt=0.0, lt=1.0)
    decay_steps: int = Field(2000, ge=1, le=10**9)
    stop_after: int | None = Field(None, ge=1, le=10**6)
    """Number of validations without a better loss after which the stage ends (default: 10 with ``plateau``, else no
    limit)."""
    hand_over: Literal["best", "last"] | None = None
    """The weights with which the stage ends: those with the lowest validation loss, or those of the last step
    (default: ``best`` if the stage can stop early, as in the papers; else ``last``)."""
    validate_every: int = Field(250, ge=1, le=10**9)
    """Number of steps between validations. It is the length of an epoch for ``plateau`` and ``halving``."""

    @property
    def patience(self) -> int | None:
        """Number of validations without a better loss after which the stage ends; None for no limit."""
        return 10 if self.stop_after is None and self.schedule == "plateau" else self.stop_after

    @property
    def keeps_best(self) -> bool:
        """Whether the stage ends with the weights of its lowest validation loss."""
        return self.patience is not None if self.hand_over is None else self.hand_over == "best"

    @model_validator(mode="after")
    def _counts(self) -> Stage:
        if self.fewest_speakers and self.most_speakers and self.fewest_speakers > self.most_speakers:
            raise ValueError(
                f"fewest_speakers {self.fewest_speakers} is more than most_speakers {self.most_speakers}"
            )
        return self


class Recipe(Config):
    """A training run."""

    name: str
    """Name of the run and its folder (default: the file's stem, after the names of its folders below ``recipes``)."""
    seed: int = Field(0, ge=0, lt=2**32)
    data: list[str] = []
    """Corpora: manifests, folders or tar files. ``--data`` on the command line replaces them."""
    noise_data: list[str] = []
    """Corpora of noise, if ``mixing`` has noise (default: ``noise.csv`` beside the speech)."""
    system: AnySystemConfig
    mixing: MixingConfig = MixingConfig()
    statistics_minutes: float | None = Field(None, gt=0.0, le=1e5)
    """Minutes of training mixtures for the mean and deviation of the front end's features (default: 64 crops of the
    first stage, 400 for local experts)."""
    stream: StreamConfig = StreamConfig()
    """The window over tar files, if the data are tar files."""
    validation: ValidationConfig = ValidationConfig()
    stages: list[Stage] = Field(min_length=1, max_length=100)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    optimizer: Literal["adam", "rmsprop", "muon"] = "adam"
    """``muon`` is for systems with recurrent layers; all other parameters are those of Adam, at half the rate."""
    clip_norm: float | None = Field(5.0, gt=0.0, le=1e9)
    """Maximum norm of the gradient; null for no limit. Isik's is 200. Luo and Sivaraman state none; theirs is 5."""
    average: float | None = Field(None, gt=0.0, lt=1.0)
    """Decay of an exponential moving average of the weights. The average is validated and saved: average * old +
    (1 - average) * new after every step (default: no averaging)."""
    facts: ModelFacts = ModelFacts()
    """Origin and licence of the data, written into the model."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        # It becomes the name of a folder and must not lead out of it.
        if (
            not name.isprintable()
            or not 0 < len(name) <= 120
            or name[0] in ". "
            or set(name) & set('/\\:*?"<>|')
        ):
            raise ValueError(
                'a name has no / \\ : * ? " < > |, no dot or space at the start, and up to 120 letters'
            )
        return name

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Recipe:
        for name, value in _numbers(self.model_dump()):
            limit = _LARGEST.get(name.rpartition(".")[2], 1e12)
            if not abs(value) <= limit:
                raise ValueError(f"{name} is {value:g}; it must be a number within +-{limit:g}")
        # 4 bytes each for the weight, the gradient and the optimizer's two averages.
        with torch.device("meta"):
            parameters = sum(each.numel() for each in build_system(self.system).parameters())
        available = available_memory()
        if available is not None and 16 * parameters > available:
            raise ValueError(
                f"the system has {parameters / 1e6:.0f} million parameters, which need {16 * parameters / 2**30:.1f} "
                f"GiB in training; {available / 2**30:.1f} GiB are free"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        for name in ("speakers", "fewest_speakers"):
            mixed, separated = getattr(self.mixing, name), getattr(self.system, name)
            if mixed != separated:
                raise ValueError(f"mixing has {name} {mixed}, the system {separated}; make them the same")
        for name in ("fewest_speakers", "most_speakers"):
            if any((getattr(stage, name) or 1) > self.mixing.speakers for stage in self.stages):
                raise ValueError(f"a stage's {name} is more than the {self.mixing.speakers} speakers")
        parts = self.system.trainable_parts
        if not {stage.part for stage in self.stages} <= set(parts):
            raise ValueError(f"a stage's part must be one of {', '.join(parts)} for this system")
        if self.system.needs_noise and self.mixing.noise is None:
            raise ValueError("a denoiser needs mixing.noise")
        self.system.check_trainable()
        return self


def read_recipe(path: Path, *, small: bool = False) -> Recipe:
    """Read and check a recipe. It inherits the values of one or several other recipes that ``base`` names.

    Args:
        path: of the YAML file.
        small: use the small variant: the values of the key ``small`` replace others, for a run of minutes.

    Raises:
        UnmingleError: the file is missing or not YAML, a value is not valid, or there is no small variant.
    """
    values = _read(path, {})
    changes = values.pop("small", None)
    if small:
        if not isinstance(changes, dict):
            raise UnmingleError(f"The recipe {path} has no small variant; leave out --small.")
        values = _merge(values, {"name": f"{values.get('name', _default_name(path))}-small"} | changes)
    values.setdefault("name", _default_name(path))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UnmingleError(f"The recipe {path} has a bad value at {place!r}: {first['msg']}.") from error


def _default_name(path: Path) -> str:
    """The file's stem, after the names of its folders below ``recipes``."""
    folders = path.resolve().parent.parts
    below = folders[len(folders) - folders[::-1].index("recipes") :] if "recipes" in folders else ()
    return "-".join([*below, path.stem])


def _read(path: Path, known: dict[Path, dict[str, Any] | None]) -> dict[str, Any]:
    """The values of a recipe, with those that it inherits. Each file is read once and stored in ``known``."""
    real = path.resolve()
    if real in known:
        if (read := known[real]) is None:
            raise UnmingleError(f"The recipe {path} inherits from itself; remove it from 'base'.")
        return dict(read)
    if len(known) >= _MOST_FILES:
        raise UnmingleError(
            f"The recipe {path} is inherited with more than {_MOST_FILES} others; shorten its 'base'."
        )
    known[real] = None
    values = _load(path)
    bases = values.pop("base", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        inherited = _read(path.parent / str(base), known)
        inherited.pop("name", None)  # The name of the base's own run.
        merged = _merge(merged, inherited)
    known[real] = _merge(merged, values)
    return dict(known[real] or {})


def _load(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise UnmingleError(f"The recipe {path} does not exist; check the path.")
        if path.stat().st_size > _MOST_BYTES:
            raise UnmingleError(f"The recipe {path} is no recipe: it has more than {_MOST_BYTES} bytes.")
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        _check_size(path, values)
    except UnmingleError:
        raise
    except OSError as error:
        raise UnmingleError(f"The recipe {path} cannot be read ({reason(error)}).") from error
    except Exception as error:
        # Besides its own errors, yaml raises ValueError (a date), RecursionError, TypeError, OverflowError ...
        raise UnmingleError(f"The recipe {path} is not YAML; correct its syntax.") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UnmingleError(f"The recipe {path} is not a mapping of names to values.")
    return values


def _check_size(path: Path, values: Any) -> None:
    """Refuse recipes with too many values: YAML references can make a small file expand to many."""
    waiting, count = [values], 0
    while waiting:
        count += 1
        if count > _MOST_VALUES:
            raise UnmingleError(f"The recipe {path} is no recipe: it has more than {_MOST_VALUES} values.")
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a config with their names, such as ``system.network.layers``."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers(value, f"{name}.{key}".strip("."))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _numbers(value, name)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield name, values


def _merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in values.items():
        before = merged.get(key)
        # A part of another ``kind`` inherits nothing: a BLSTM has no use for the channels of a CNN. A part without a
        # kind holds what several kinds have in common.
        if (
            isinstance(value, Mapping)
            and isinstance(before, Mapping)
            and (value.get("kind") is None or before.get("kind") in (None, value["kind"]))
        ):
            merged[key] = _merge(before, value)
        else:
            merged[key] = value
    return merged


def shrink(recipe: Recipe) -> Recipe:
    """The same recipe for ``--smoke``: two steps per stage, short crops, small batches, a tiny system."""
    stages = [
        stage.model_copy(
            update={
                "steps": 2,
                "batch_size": 2,
                "seconds": min(stage.seconds, 0.8),
                "validate_every": 2,
                "warmup_steps": 0,
            }
        )
        for stage in recipe.stages
    ]
    validation = recipe.validation.model_copy(update={"count": 2, "seconds": 1.0})
    system = tiny(recipe.system)
    changes = {"stages": stages, "validation": validation, "system": system}
    # Statistics of a few mixtures are enough.
    return recipe.model_copy(update=changes | {"statistics_minutes": None})


def tiny(config: Config) -> Config:
    """The config with all parts reduced to their ``tiny_sizes``."""
    changes: dict[str, Any] = {
        name: min(getattr(config, name), size) for name, size in getattr(config, "tiny_sizes", {}).items()
    }
    changes |= {name: tiny(value) for name, value in config if isinstance(value, Config)}
    return config.model_copy(update=changes)
