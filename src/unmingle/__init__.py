"""unmingle: separates people talking at once into one clean file each, from one microphone.

>>> import unmingle
>>> unmingle.separate("meeting.wav")                                    # doctest: +SKIP
>>> model = unmingle.load()                                             # doctest: +SKIP
>>> estimates = model.separate(samples, sample_rate=44100, speakers=2).estimates  # doctest: +SKIP
>>> cleaned = unmingle.load_denoiser().denoise(samples, sample_rate=48000)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unmingle.errors import UnmingleError
from unmingle.version import __version__

if TYPE_CHECKING:
    from unmingle.denoising import Enhancer, denoise, load_denoiser
    from unmingle.separation import Separator, load, separate

__all__ = [
    "Enhancer",
    "Separator",
    "UnmingleError",
    "__version__",
    "denoise",
    "load",
    "load_denoiser",
    "separate",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: `unmingle --help` must not pay for it.
    if name in __all__:
        from unmingle import denoising, separation

        return getattr(separation if hasattr(separation, name) else denoising, name)
    raise AttributeError(f"module 'unmingle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
