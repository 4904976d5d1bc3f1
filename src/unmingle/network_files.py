"""Files of small networks that help a system: safetensors in half precision, with the settings beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unmingle.errors import UnmingleError
from unmingle.temporary import replace_files


def save_network(network: nn.Module, config: str, kind: str, path: Path) -> None:
    """Write the weights of ``network`` and its settings.

    Args:
        network: its state is written.
        config: its settings as JSON.
        kind: what the file holds, with the version of its format.
        path: of the file.

    Raises:
        UnmingleError: the file cannot be written.
    """
    # Counters of norms are integers.
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    replace_files([(path, save(state, metadata={"format_version": kind, "config": config}))])


def read_network(kind: str, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the state, in single precision, of a file of :func:`save_network`.

    Raises:
        UnmingleError: the file is missing, damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(metadata.get("config", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path) from error
    if metadata.get("format_version") != kind:
        raise UnmingleError(f"{path} is not a {kind.split('-')[0].replace('_', ' ')} of this release.")
    return config, {name: v.float() if v.is_floating_point() else v for name, v in state.items()}


def damaged(path: Path) -> UnmingleError:
    """The error of a file that cannot be read."""
    return UnmingleError(f"{path} is damaged or missing; fetch it again.")
