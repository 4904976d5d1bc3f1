"""What a user runs on audio: arrays (:class:`Separator`) and files (:func:`separate_files`)."""

from unmingle.separation.files import FileResult, Output, separate, separate_files
from unmingle.separation.offline import Separator, load

__all__ = ["FileResult", "Output", "Separator", "load", "separate", "separate_files"]
