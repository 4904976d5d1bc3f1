"""Which device computes."""

from __future__ import annotations

import torch

from unmingle.errors import UnmingleError


def pick_device(device: str) -> str:
    """PyTorch's name of ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        UnmingleError: no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UnmingleError(f"There is no device {device!r}; choose auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UnmingleError("This machine has no CUDA device that PyTorch can use; choose cpu.")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
