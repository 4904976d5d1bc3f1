"""Load systems by name or path: model files, and the pretrained models in the package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from unmingle.errors import UnmingleError
from unmingle.exported import load_exported
from unmingle.exported_files import MODEL_JSON, graph_files, read_description
from unmingle.systems import SYSTEM_CONFIG, System, SystemConfig, build_system
from unmingle.temporary import replace_files

FORMAT_VERSION = "3"
PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_MODEL = "separator-8khz"
DEFAULT_DENOISER = "denoiser-16khz"
COUNTING_MODEL = "separator-8khz"
"""Counts the speakers of a recording unless their number is given. The thresholds of :mod:`unmingle.counting` for one
speaker and two were chosen with it."""
COUNTING_DENOISER = "denoiser-16khz"
"""Cleans recordings before their speakers are counted. The thresholds of :mod:`unmingle.counting` belong to it."""


class ModelFacts(BaseModel):
    """Facts about the origin of a model, stored in its file beside the config."""

    model_config = ConfigDict(extra="forbid")

    task: str = "separate"
    data: str = "not stated"
    licence: str = "not stated"
    """Licences of the training data."""
    score: str = "not stated"
    audio_hours: float = 0.0
    """Hours of training mixtures."""


def save_system(system: System, path: Path, facts: ModelFacts, *, half: bool = True) -> None:
    """Write a system as safetensors with its config, under a temporary name first.

    Parameters are stored in half precision unless ``half`` is false; they are computed in float32.

    Raises:
        UnmingleError: the file cannot be written.
    """
    parameters = dict(system.named_parameters(remove_duplicate=False))
    # Statistics and counters among the buffers may leave the range of half precision.
    state = {
        name: (value.half() if half and name in parameters else value).contiguous().cpu()
        for name, value in _distinct(system).items()
    }
    metadata = {
        "format_version": FORMAT_VERSION,
        "config": system.config.model_dump_json(),
        "facts": facts.model_dump_json(),
    }
    # As bytes: safetensors' own writer does not report a full disk, and makes files that only their owner can read.
    replace_files([(path, save(state, metadata=metadata))])


def _distinct(system: System) -> dict[str, torch.Tensor]:
    """The state dict without duplicates: a formation may be the same module under two names."""
    seen: dict[int, str] = {}
    distinct = {}
    for name, value in system.state_dict().items():
        if seen.setdefault(value.data_ptr(), name) == name:
            distinct[name] = value
    return distinct


def find_model(name: str | Path) -> Path:
    """The file of a pretrained model by name, or a model file or exported folder by path.

    Raises:
        UnmingleError: there is no such model.
    """
    if str(name) in model_names():
        return PRETRAINED / f"{name}.safetensors"
    path = Path(name)
    try:
        if path.is_file() or (path / MODEL_JSON).is_file():
            return path
    except OSError:
        pass  # A name that no file can have.
    known = ", ".join(model_names()) or "none"
    raise UnmingleError(
        f"There is no model {str(name)!r}; the package has {known}, or give a .safetensors file or an exported "
        "folder."
    )


def find_weights(name: str | Path) -> Path:
    """Like :func:`find_model`, for models with weights.

    Raises:
        UnmingleError: there is no such model, or it is exported.
    """
    path = find_model(name)
    if path.is_dir():
        raise UnmingleError(f"{path} is exported; name the model from which it was exported.")
    return path


def model_names() -> list[str]:
    """Names of the pretrained models in the package."""
    return sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))


def model_card(name: str) -> str:
    """The card (Markdown) of a pretrained model.

    Raises:
        UnmingleError: there is no such model.
    """
    card = find_model(name).with_suffix(".md")
    if not card.is_file():
        raise UnmingleError(f"The model {name} has no card; {card} does not exist.")
    return card.read_text(encoding="utf-8")


def read_facts(path: Path) -> tuple[SystemConfig, ModelFacts]:
    """Config and facts of a model file, without its weights.

    Raises:
        UnmingleError: the file is damaged, or is no model of this program.
    """
    if path.is_dir():
        config, stored = read_description(path)
        try:
            return config, ModelFacts.model_validate(stored)
        except ValidationError as error:
            raise UnmingleError(f"{path / MODEL_JSON} is damaged; export the model again.") from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UnmingleError(f"{path} is not a safetensors file, or is damaged; fetch it again.") from error
    version = metadata.get("format_version")
    if version is None or "config" not in metadata:
        raise UnmingleError(
            f"{path} has weights but no config of unmingle; give a file made by `unmingle train`."
        )
    if version not in ("2", FORMAT_VERSION):
        raise UnmingleError(
            f"{path} has model format {version!r}, this release reads {FORMAT_VERSION}; "
            "use the release of unmingle that wrote it."
        )
    try:
        values = json.loads(metadata["config"])
        config = SYSTEM_CONFIG.validate_python(_upgraded(values) if version == "2" else values)
        facts = ModelFacts.model_validate_json(metadata.get("facts", "{}"))
    except (ValueError, KeyError, RecursionError) as error:
        raise UnmingleError(
            f"{path} has a config that this release cannot read; use the release that wrote it, or fetch it again."
        ) from error
    return config, facts


def _upgraded(values: Any) -> Any:
    """The config of a file of format 2, with the keys of format 3."""
    if not isinstance(values, dict):
        return values
    words = {"talkers": "speakers", "fewest_talkers": "fewest_speakers"}
    if values.get("kind") == "local_experts":
        words["hardness"] = "sharpness"
    return {words.get(key, key): _upgraded(value) for key, value in values.items()}


def load_system(name: str | Path, device: str = "cpu", changes: Mapping[str, Any] | None = None) -> System:
    """Build the system of a model file and load its weights, ready to separate.

    Args:
        name: of a model in the package, or a path. A folder made by ``unmingle export`` runs in onnxruntime.
        device: of PyTorch.
        changes: new values of config settings that need no training: attractor formation, masks, thresholds. Dots
            separate nested names: ``{"formation": "kmeans", "weight.threshold": 0.5}``.

    Raises:
        UnmingleError: the model does not exist, is damaged or does not fit its own config, or a change is not valid
            or needs other weights.
    """
    path = find_model(name)
    if path.is_dir():
        if changes:
            raise UnmingleError(
                f"{path} is exported and cannot have {_in_words(changes)}; export it with them."
            )
        return load_exported(path)
    config, _ = read_facts(path)
    config = _changed(config, changes or {})
    try:
        # First on the meta device, which allocates no memory, because a hostile config may be huge.
        with torch.device("meta"):
            blank = build_system(config)
            wanted = {name: tuple(value.shape) for name, value in blank.state_dict().items()}
            needed = {name for name, _ in (*blank.named_parameters(), *blank.named_buffers())} & set(wanted)
        with safe_open(path, framework="pt") as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if changes:
                if not needed <= set(stored):
                    raise UnmingleError(
                        f"{path} has no weights for {_in_words(changes)}; train it with them."
                    )
                stored = {name: shape for name, shape in stored.items() if name in wanted}
            if any(wanted.get(name) != shape for name, shape in stored.items()):
                raise UnmingleError(f"{path} holds weights that do not fit its config; fetch it again.")
            if not needed <= set(stored):
                raise UnmingleError(f"{path} lacks weights that its config asks for; fetch it again.")
            state = {name: file.get_tensor(name) for name in stored}
            state = {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
    except (SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, UnmingleError):
            raise
        raise UnmingleError(f"{path} is damaged; fetch it again.") from error
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise UnmingleError(f"{path} holds weights that are NaN or infinite; fetch it again.")
    system = build_system(config)
    system.load_state_dict(state, strict=False)
    return system.to(device).eval()


def parse_changes(settings: Sequence[str]) -> dict[str, Any]:
    """Changes for :func:`load_system` from ``KEY=VALUE`` settings. A value is JSON, or a word without quotes.

    Raises:
        UnmingleError: a setting without an equals sign.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UnmingleError(f"A setting must be KEY=VALUE; got {setting!r}.")
        try:
            parsed[key] = json.loads(value)
        except (ValueError, RecursionError):
            parsed[key] = value
    return parsed


def _changed(config: SystemConfig, changes: Mapping[str, Any]) -> SystemConfig:
    values = config.model_dump()
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner: Any = values
        for parent in parents:
            inner = inner.get(parent) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner:
            raise UnmingleError(f"The model's config has no {key!r}; it has {', '.join(sorted(values))}.")
        inner[last] = value
    try:
        return SYSTEM_CONFIG.validate_python(values)
    except ValidationError as error:
        raise UnmingleError(
            f"The model cannot have {_in_words(changes)}: {error.errors()[0]['msg']}."
        ) from error


def _in_words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in changes.items())


def file_hash(path: Path) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a model, to name it in results."""
    files = [path / MODEL_JSON, *graph_files(path)] if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
