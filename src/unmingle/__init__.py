"""unmingle: separates people talking at once into one clean file each, from one microphone.

>>> import unmingle
>>> unmingle.separate("meeting.wav")                                    # doctest: +SKIP
>>> model = unmingle.load()                                             # doctest: +SKIP
>>> estimates = model.separate(samples, sample_rate=44100, speakers=2)   # doctest: +SKIP
>>> cleaned = unmingle.load_denoiser().denoise(samples, sample_rate=48000)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unmingle.errors import UnmingleError

if TYPE_CHECKING:
    from unmingle.separation import Enhancer, Separator, denoise, load, load_denoiser, separate

__version__ = "0.1.0"
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
        from unmingle import separation

        return getattr(separation, name)
    raise AttributeError(f"module 'unmingle' has no attribute {name!r}")
