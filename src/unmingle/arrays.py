"""Convert arrays and tensors of callers to float32 samples, and results back."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmingle.errors import UnmingleError
from unmingle.samples import LOWEST_SAMPLE_RATE, Samples, check_samples


def as_samples(audio: NDArray[np.generic] | Tensor, *, channels_last: bool = False) -> Samples:
    """Audio as float32 in [-1, 1], channels before samples. The input is not changed.

    Args:
        audio: an array or a tensor on any device: floating point (``bfloat16`` too) in [-1, 1], or signed integers
            of 8, 16 or 32 bits, which are divided by their full scale.
        channels_last: the shape is ``(samples, channels)``, as soundfile returns it.

    Returns:
        ``(samples,)`` or ``(channels, samples)``. A batch dimension is treated as channels.

    Raises:
        UnmingleError: another type or shape, or samples that are not finite or beyond 1e10.
    """
    array = _as_array(audio)
    if array.ndim not in (1, 2):
        raise UnmingleError(
            f"Audio must be (samples,) or (channels, samples), or (samples, channels) with channels_last=True; "
            f"got {array.shape}."
        )
    if channels_last and array.ndim == 2:
        array = array.T
    if np.issubdtype(array.dtype, np.signedinteger) and array.dtype.itemsize <= 4:
        full_scale = np.float32(2 ** (8 * array.dtype.itemsize - 1))
        samples = array.astype(np.float32) / full_scale
    elif np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # They become infinite and are refused below.
            samples = array.astype(np.float32)
    else:
        # The full scale of 64-bit integers is not defined; unsigned integers have silence in the middle.
        raise UnmingleError(
            f"Audio must be floating point, or signed integers of 8, 16 or 32 bits; got {array.dtype}."
        )
    check_samples(samples, "The audio")
    return np.ascontiguousarray(samples)


def like(answer: Samples, audio: object, *, channels_last: bool = False) -> Samples | Tensor:
    """``answer`` ``(..., samples)`` in the form of ``audio``: a tensor if it is one, channels last if they are."""
    if channels_last and answer.ndim == 2:
        answer = np.ascontiguousarray(answer.T)
    return torch.from_numpy(answer) if isinstance(audio, Tensor) else answer


def as_rate(sample_rate: object) -> int:
    """A sample rate in hertz from any type of number.

    Raises:
        UnmingleError: it is not a whole number, or below 1 kHz.
    """
    if isinstance(sample_rate, Tensor | np.ndarray) and sample_rate.ndim == 0:
        sample_rate = sample_rate.item()
    if isinstance(sample_rate, numbers.Real) and not isinstance(sample_rate, bool | np.bool_):
        rate = float(sample_rate)
        if math.isfinite(rate) and rate == round(rate):
            if rate < LOWEST_SAMPLE_RATE:
                raise UnmingleError(
                    f"The sample rate is {round(rate)} Hz; at least {LOWEST_SAMPLE_RATE} Hz is needed."
                )
            return round(rate)
    raise UnmingleError(f"The sample rate must be a whole number of hertz; got {sample_rate!r}.")


def _as_array(audio: NDArray[np.generic] | Tensor) -> NDArray[Any]:
    try:
        if isinstance(audio, Tensor):
            # Lazy conjugates and negatives of PyTorch are resolved, because NumPy cannot share their memory.
            tensor = audio.detach().resolve_conj().resolve_neg().cpu()
            array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
            return array
        return np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnmingleError(
            "Audio must be a NumPy array or a PyTorch tensor with plain numbers in it."
        ) from error
