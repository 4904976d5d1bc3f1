"""Remove noise from recordings: arrays (:class:`Enhancer`), files and streams."""

from unmingle.denoising.enhancer import Enhancer, denoise, load_denoiser
from unmingle.denoising.files import DenoisingResult, denoise_files
from unmingle.denoising.post_gain import attenuation_limit_of
from unmingle.denoising.stream import DenoisingStream

__all__ = [
    "DenoisingResult",
    "DenoisingStream",
    "Enhancer",
    "attenuation_limit_of",
    "denoise",
    "denoise_files",
    "load_denoiser",
]
