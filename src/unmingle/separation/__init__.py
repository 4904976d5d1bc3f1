"""What a user runs on audio: arrays (:class:`Separator`, :class:`Enhancer`), files and streams."""

from unmingle.separation.denoising import Enhancer, denoise, denoise_files, load_denoiser
from unmingle.separation.files import FileResult, Output, separate, separate_files
from unmingle.separation.offline import Separator, load
from unmingle.separation.streaming import DenoisingStream, Stream

__all__ = [
    "DenoisingStream",
    "Enhancer",
    "FileResult",
    "Output",
    "Separator",
    "Stream",
    "denoise",
    "denoise_files",
    "load",
    "load_denoiser",
    "separate",
    "separate_files",
]
