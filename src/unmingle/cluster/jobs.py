"""The work on every file of a corpus. A job is a plain value, so that it can be sent to other machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from unmingle.audio import check_format
from unmingle.denoising import denoise_files, load_denoiser
from unmingle.file_batches import Output, check_template
from unmingle.models import DEFAULT_DENOISER, file_hash, find_model
from unmingle.separation import load, separate_files
from unmingle.separation.offline import Speakers

Work = Callable[[Path, str, Path], dict[str, Any]]
"""Takes a file, its id and a folder for the outputs; returns the file's row of the result manifest."""


class Job(Protocol):
    """The work on every file. Equal jobs give equal bytes; the number of workers changes nothing."""

    @property
    def threads(self) -> int:
        """Number of PyTorch threads per process."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    def describe(self) -> dict[str, Any]:
        """All settings that change the results, for JSON.

        Raises:
            UnmingleError: the model does not exist, or the format or the template is not valid.
        """

    def open(self) -> Work:
        """Load the model, in this process."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class SeparationJob:
    """Separate speakers."""

    model: str
    """A name, or an absolute path."""
    speakers: Speakers = None
    channel: str = "mix"
    track: int | None = None
    denoise: bool = False
    format: str = "wav"
    bits: int | None = None
    name: str = "{stem}_speaker{n}"
    device: str = "cpu"
    threads: int = 1

    def describe(self) -> dict[str, Any]:
        check_format(self.format, 48000, self.bits)
        check_template(self.name, 2)
        facts = {"command": "separate", **asdict(self), **_model_facts(self.model)}
        return facts | ({"denoiser": _model_facts(DEFAULT_DENOISER)} if self.denoise else {})

    def open(self) -> Work:
        torch.set_num_threads(self.threads)
        separator = load(self.model, self.device)
        clean = load_denoiser().file_stream if self.denoise else None
        separator.check_speakers(self.speakers)

        def work(path: Path, stem: str, folder: Path) -> dict[str, Any]:
            (result,) = separate_files(
                [path],
                separator,
                Output(folder, self.format, self.name, self.bits),
                speakers=self.speakers,
                channel=self.channel,
                track=self.track,
                clean=clean,
                stems=[stem],
            )
            return result.as_dict()

        return work


@dataclass(frozen=True)
class DenoisingJob:
    """Remove noise."""

    model: str
    """A name, or an absolute path."""
    attenuation_limit: float | None = None
    """In dB; see :func:`~unmingle.denoising.load_denoiser`."""
    track: int | None = None
    format: str = "wav"
    bits: int | None = None
    name: str = "{stem}_denoised"
    device: str = "cpu"
    threads: int = 1

    def describe(self) -> dict[str, Any]:
        check_format(self.format, 48000, self.bits)
        check_template(self.name, 1)
        return {"command": "denoise", **asdict(self), **_model_facts(self.model)}

    def open(self) -> Work:
        torch.set_num_threads(self.threads)
        enhancer = load_denoiser(self.model, attenuation_limit=self.attenuation_limit)

        def work(path: Path, stem: str, folder: Path) -> dict[str, Any]:
            output = Output(folder, self.format, self.name, self.bits)
            (result,) = denoise_files([path], enhancer, output, track=self.track, stems=[stem])
            row = result.as_dict()
            row["outputs"] = [row.pop("output")]
            return row

        return work


def _model_facts(model: str) -> dict[str, str]:
    """The model's name and a hash of its bytes. They do not depend on the location of the file."""
    path = find_model(model)
    return {"model": path.stem, "model_sha256": file_hash(path)}
