"""Files of small networks that help a system: safetensors in half precision, with the settings beside the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from unmingle.errors import UnmingleError
from unmingle.temporary import replace_files

Network = TypeVar("Network", bound=nn.Module)


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


def load_network(kind: str, path: Path, build: Callable[..., Network]) -> Network:
    """The network of a file of :func:`save_network`, in single precision, ready to use.

    Args:
        kind: what the file must hold.
        path: of the file.
        build: makes the network from its settings, which are keyword arguments.

    Raises:
        UnmingleError: the file is missing, damaged or of another kind.
    """
    damaged = UnmingleError(f"{path} is damaged or missing; fetch it again.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise damaged from error
    if metadata.get("format_version") != kind:
        what = kind.split("-")[0].replace("_", " ")
        raise UnmingleError(
            f"{path} is not a {what} of this release; fetch it again, or use the release that wrote it."
        )
    try:
        network = build(**json.loads(metadata["config"]))
        network.load_state_dict(
            {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
        )
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise damaged from error
    return network.eval().requires_grad_(False)
