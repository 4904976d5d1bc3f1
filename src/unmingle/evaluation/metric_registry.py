"""Every metric of ``unmingle evaluate`` and of reports, in one registry. A new metric is one entry of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from unmingle.errors import UnmingleError

# The command line reads this module for its help, so heavy imports stand inside the functions.
if TYPE_CHECKING:
    from unmingle.audio import Samples

_LIMIT_DB = 100.0


@dataclass(frozen=True)
class Metric:
    """A metric of estimates against references."""

    label: str
    """Column header in tables."""
    definition: str
    """One line, written into results and docs."""
    compute: Callable[[Samples, Samples, int], list[float]]
    """Takes references and estimates, each ``(sources, samples)`` in the same order, and the rate in hertz. Returns
    one value per source, NaN where the metric is not defined."""
    packages: tuple[str, ...] = ()
    """Packages it needs in addition to the extra ``[evaluate]``."""
    rates: tuple[int, ...] | None = None
    """Sample rates in hertz for which it is defined; None for all."""
    tasks: tuple[str, ...] = ()
    """Tasks that compute it by default: ``separate``, ``denoise``."""
    decimals: int = 2
    improves: bool = True
    """Whether the mixture has a value too, so that an improvement is defined."""

    def why_undefined(self, name: str, references: Samples, sample_rate: int) -> str:
        """Why a source that is not silent has no value."""
        if self.rates is not None and sample_rate not in self.rates:
            return f"no {name.upper()} at {sample_rate} Hz: it needs {' or '.join(map(str, self.rates))}"
        if name == "sir" and len(references) == 1:
            return "no SIR: there is one source"
        if name in ("sir", "sar"):
            return "no SIR and SAR: the references cannot be told apart"
        return f"no {name.upper()}: it found too little speech"


def _si_sdr(references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    import torch

    from unmingle.metrics import si_sdr

    return [float(value) for value in si_sdr(torch.tensor(estimates), torch.tensor(references))]


def _magnitude_snr(references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    import torch

    from unmingle.metrics import magnitude_snr

    return [float(v) for v in magnitude_snr(torch.tensor(estimates), torch.tensor(references), sample_rate)]


def _sdr(references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    # SDR projects an estimate on its own reference only, so each pair is computed separately. In torch, because it
    # respects its number of threads; NumPy's libraries use all cores even for matrices as small as these.
    import fast_bss_eval
    import torch

    values = [_of_silence(*pair) for pair in zip(references, estimates, strict=True)]
    sound = [k for k, value in enumerate(values) if value is None]
    if sound:
        own, given = (torch.tensor(each[sound]).double().unsqueeze(1) for each in (references, estimates))
        found = fast_bss_eval.sdr(own, given, clamp_db=_LIMIT_DB, return_perm=False).squeeze(-1)
        for k, value in zip(sound, found.clamp(-_LIMIT_DB, _LIMIT_DB).tolist(), strict=True):
            values[k] = value
    return [math.nan if value is None else value for value in values]


def _sir(references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    return _interference_and_artefacts(references, estimates)[0]


def _sar(references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    return _interference_and_artefacts(references, estimates)[1]


def _interference_and_artefacts(references: Samples, estimates: Samples) -> tuple[list[float], list[float]]:
    # Interference is the projection on all references minus the projection on the source's own reference.
    import fast_bss_eval
    import numpy as np
    import torch

    values = [_of_silence(*pair) for pair in zip(references, estimates, strict=True)]
    audible = [k for k, reference in enumerate(references) if reference.any()]
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return known, known
    # A silent estimate, whose value is known, is replaced by its reference.
    given = torch.tensor(
        np.stack([estimates[k] if values[k] is None else references[k] for k in audible])
    ).double()
    try:
        # The NumPy code of fast_bss_eval fails with NumPy 2; its torch code gives the same values.
        _, sir, sar = fast_bss_eval.bss_eval_sources(
            torch.tensor(references[audible]).double(), given, clamp_db=_LIMIT_DB, compute_permutation=False
        )
    except RuntimeError:  # The system is singular: one reference is a filtered copy of another.
        sir = sar = torch.full((len(audible),), math.nan)
    if len(audible) == 1:  # With one source there is no interference.
        sir = torch.full((1,), math.nan)
    rows = {k: row for row, k in enumerate(audible)}
    sirs, sars = (
        [float(found[rows[k]]) if value is None else value for k, value in enumerate(values)]
        for found in (sir, sar)
    )
    return sirs, sars


def _of_silence(reference: Samples, estimate: Samples) -> float | None:
    """NaN against a silent reference, -100 dB for a silent estimate, None where there is something to compute."""
    if not reference.any():
        return math.nan
    return None if estimate.any() else -_LIMIT_DB


def _pesq(references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    import pesq

    def one(reference: Samples, estimate: Samples) -> float:
        if sample_rate not in (8000, 16000) or not reference.any() or not estimate.any():
            return math.nan
        try:
            return float(pesq.pesq(sample_rate, reference, estimate, "wb" if sample_rate == 16000 else "nb"))
        except (pesq.NoUtterancesError, pesq.BufferTooShortError):
            return math.nan

    return [one(*pair) for pair in zip(references, estimates, strict=True)]


def _stoi(
    references: Samples, estimates: Samples, sample_rate: int, *, extended: bool = False
) -> list[float]:
    from pystoi import stoi

    def one(reference: Samples, estimate: Samples) -> float:
        with warnings.catch_warnings():
            # With too little speech it warns and returns 1e-5.
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("error", UserWarning)
            try:
                return float(stoi(reference, estimate, sample_rate, extended=extended))
            except (RuntimeWarning, UserWarning, ValueError):
                return math.nan

    return [one(*pair) for pair in zip(references, estimates, strict=True)]


def _estoi(references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    return _stoi(references, estimates, sample_rate, extended=True)


def _dnsmos(references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    from unmingle.evaluation.dnsmos import dnsmos

    return [dnsmos(estimate, sample_rate) for estimate in estimates]


METRICS = {
    "si_sdr": Metric(
        "SI-SDR (dB)",
        "scale-invariant SDR in dB, Le Roux et al. 2019, means removed",
        _si_sdr,
        tasks=("separate", "denoise"),
    ),
    "sdr": Metric(
        "SDR (dB)",
        "BSS-eval version 3 SDR in dB, 512-tap filters, by fast-bss-eval",
        _sdr,
        tasks=("separate",),
    ),
    "sir": Metric("SIR (dB)", "BSS-eval version 3 SIR in dB: what is left of the other sources", _sir),
    "sar": Metric(
        "SAR (dB)",
        "BSS-eval version 3 SAR in dB: what is neither source",
        _sar,
        improves=False,  # The mixture has no artefacts, so there is no improvement.
    ),
    "magnitude_snr": Metric(
        "magnitude SNR (dB)",
        "SNR of magnitude spectrograms in dB, Isik et al. 2016",
        _magnitude_snr,
        tasks=("separate",),
    ),
    "pesq": Metric(
        "PESQ",
        "PESQ MOS-LQO, ITU-T P.862: narrow band below 16 kHz, wide band at 16 kHz",
        _pesq,
        packages=("pesq",),
        rates=(8000, 16000),
        tasks=("separate", "denoise"),
    ),
    "stoi": Metric(
        "STOI",
        "short-time objective intelligibility, Taal et al. 2011",
        _stoi,
        packages=("pystoi",),
        tasks=("separate", "denoise"),
        decimals=3,
    ),
    "estoi": Metric("ESTOI", "extended STOI, Jensen & Taal 2016", _estoi, packages=("pystoi",), decimals=3),
    "dnsmos": Metric(
        "DNSMOS overall",
        "DNSMOS P.835 overall rating at 16 kHz, Reddy et al. 2022; no reference needed",
        _dnsmos,
        packages=("speechmos", "onnxruntime"),
        rates=(16000,),
        tasks=("denoise",),
    ),
}


def available_metrics() -> list[str]:
    """The metrics whose packages are installed."""
    return [name for name, metric in METRICS.items() if all(map(find_spec, metric.packages))]


def default_metrics(task: str) -> list[str]:
    """The available metrics that a task computes by default."""
    return [name for name in available_metrics() if task in METRICS[name].tasks]


def check_metrics(names: Sequence[str]) -> list[str]:
    """``names`` without duplicates, SI-SDR first because it determines the permutation.

    Raises:
        UnmingleError: a metric is unknown, or its package is not installed.
    """
    available = available_metrics()
    for name in names:
        if name not in METRICS:
            raise UnmingleError(f"There is no metric {name!r}; choose from {', '.join(available)}.")
        if name not in available:
            raise UnmingleError(
                f"The metric {name} needs {' and '.join(METRICS[name].packages)}; "
                "install with: pip install 'unmingle[evaluate]'"
            )
    return list(dict.fromkeys(["si_sdr", *names]))
