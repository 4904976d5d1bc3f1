"""Which device computes."""

from __future__ import annotations

import platform

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


def has_fast_bfloat16(device: str) -> bool:
    """Whether ``cpu`` or ``cuda`` computes in bfloat16 with instructions of its own.

    Other processors are slower in bfloat16 than in float32: those with AVX-512 but without these instructions convert
    every number, and older ones have no LSTM in bfloat16.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    # On x86, PyTorch also answers yes for AVX-512 without instructions for bfloat16.
    return platform.machine().lower() not in ("x86_64", "amd64") or _avx512_has_bfloat16()


def _avx512_has_bfloat16() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and bool(supported())


def fast_inference(device: torch.device) -> torch.autocast:
    """A context in which networks compute in bfloat16, on processors with :func:`has_fast_bfloat16`.

    An LSTM takes two thirds of the time of float32. A GPU is fast enough in float32.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=device.type == "cpu" and has_fast_bfloat16("cpu"))
