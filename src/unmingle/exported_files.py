"""The folder of an exported model: its description, and its graphs for onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmingle.errors import UnmingleError
from unmingle.systems import SYSTEM_CONFIG, SystemConfig

FORMAT_VERSION = "1"
MODEL_JSON = "model.json"


class OnnxGraph:
    """One ONNX graph in onnxruntime, called with named tensors. It runs on the processor.

    Raises:
        UnmingleError: onnxruntime is not installed, or the file is not an ONNX graph.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UnmingleError(
                "An exported model needs onnxruntime; install with: pip install 'unmingle[onnx]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait must not spin: that slows down other programs on a busy machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            content = path.read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise UnmingleError(f"{path} cannot be read; export the model again.") from error
        except Exception as error:  # onnxruntime has many error classes.
            raise UnmingleError(
                f"{path} is damaged, or this onnxruntime cannot read it; export it again."
            ) from error

    def __call__(self, *outputs: str, **inputs: Tensor) -> list[Tensor]:
        """The named outputs. ``inputs`` may contain tensors that the graph does not have."""
        wanted = (each.name for each in self._session.get_inputs())
        given = {name: np.ascontiguousarray(inputs[name].detach().cpu().numpy()) for name in wanted}
        return [torch.from_numpy(value) for value in self._session.run(list(outputs), given)]


def read_description(folder: Path) -> tuple[SystemConfig, dict[str, Any]]:
    """Config and facts of an exported model.

    Raises:
        UnmingleError: ``model.json`` is damaged, or of another release.
    """
    described = _read_model_json(folder)
    try:
        return SYSTEM_CONFIG.validate_python(described["config"]), dict(described["facts"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnmingleError(f"{folder / MODEL_JSON} is damaged; export the model again.") from error


def graph_files(folder: Path) -> list[Path]:
    """The graphs of an exported model. The folder may also contain graphs of an earlier export.

    Raises:
        UnmingleError: ``model.json`` is damaged, or of another release.
    """
    return [folder / Path(name).name for name in sorted(_read_model_json(folder)["graphs"])]


def read_parameters(folder: Path) -> dict[str, Any]:
    """Parameters of an exported model that are not in a graph, by name.

    Raises:
        UnmingleError: ``model.json`` is damaged, or of another release.
    """
    return dict(_read_model_json(folder).get("parameters", {}))


def _read_model_json(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_JSON
    try:
        described = dict(json.loads(path.read_text(encoding="utf-8")))
        version, _ = described["format_version"], dict(described["graphs"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnmingleError(f"{path} is damaged; export the model again.") from error
    if version != FORMAT_VERSION:
        raise UnmingleError(
            f"{path} has format {version!r}, this release reads {FORMAT_VERSION!r}; export the model again."
        )
    return described
