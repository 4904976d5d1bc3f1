"""Separate speakers: arrays (:class:`Separator`) and files."""

from unmingle.separation.files import FileResult, separate, separate_files
from unmingle.separation.offline import Separator, load

__all__ = ["FileResult", "Separator", "load", "separate", "separate_files"]
