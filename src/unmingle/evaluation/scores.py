"""Scores of one mixture's estimates, talker by talker, in the order of the references.

The permutation of estimates is the one with the best mean SI-SDR; every other metric uses it too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch

from unmingle.audio import Samples
from unmingle.errors import UnmingleError
from unmingle.evaluation.dnsmos import dnsmos
from unmingle.metrics import magnitude_snr, si_sdr
from unmingle.scoring import best_permutation, pairwise_si_sdr

DEFINITIONS = {
    "si_sdr": "scale-invariant SDR in dB, Le Roux et al. 2019, means removed",
    "sdr": "BSS-eval version 3 SDR in dB, 512-tap filters, by fast-bss-eval",
    "magnitude_snr": "SNR of magnitude spectrograms in dB, Isik et al. 2016",
    "pesq": "PESQ MOS-LQO, ITU-T P.862: narrow band below 16 kHz, wide band at 16 kHz",
    "stoi": "short-time objective intelligibility, Taal et al. 2011",
    "dnsmos": "DNSMOS P.835 overall rating at 16 kHz, Reddy et al. 2022; no reference needed",
}
_PACKAGES = {"pesq": ("pesq",), "stoi": ("pystoi",), "dnsmos": ("speechmos", "onnxruntime")}
TASK_METRICS = {
    "separate": ["si_sdr", "sdr", "magnitude_snr", "pesq", "stoi"],
    "denoise": ["si_sdr", "pesq", "stoi", "dnsmos"],
}
"""What is scored if nothing is said."""


def available_metrics() -> list[str]:
    """SI-SDR, BSS-eval SDR and magnitude SNR always; the others where their packages are installed."""
    return [name for name in DEFINITIONS if all(map(find_spec, _PACKAGES.get(name, ())))]


def default_metrics(task: str) -> list[str]:
    """Those of a task that are available."""
    return [name for name in TASK_METRICS[task] if name in available_metrics()]


def check_metrics(names: Sequence[str]) -> list[str]:
    """The metrics of these names, SI-SDR first: it finds the permutation.

    Raises:
        UnmingleError: there is no such metric here.
    """
    unknown = [name for name in names if name not in available_metrics()]
    if unknown:
        raise UnmingleError(
            f"There is no metric {unknown[0]!r} here; choose from {', '.join(available_metrics())}."
        )
    return list(dict.fromkeys(["si_sdr", *names]))


def score_mixture(
    mixture: Samples, references: Samples, estimates: Samples, sample_rate: int, metrics: Sequence[str]
) -> dict[str, list[float | None]]:
    """Every metric and its improvement over the mixture (``..._improvement``), one value a talker.

    Args:
        mixture: ``(samples,)``.
        references: ``(sources, samples)``.
        estimates: ``(sources, samples)``, in any order.
        sample_rate: in hertz.
        metrics: names from :data:`DEFINITIONS`.

    Returns:
        Lists in the order of the references. None where a metric is not defined: for a silent
        reference, and where PESQ finds no speech.
    """
    ordered = estimates[_order(estimates, references)]
    silent = [float(np.square(reference).sum()) < 1e-10 for reference in references]
    scores: dict[str, list[float | None]] = {}
    for metric in metrics:
        after = _values(metric, references, ordered, sample_rate)
        before = _values(metric, references, np.broadcast_to(mixture, references.shape), sample_rate)
        scores[metric] = [None if mute else _finite(value) for value, mute in zip(after, silent, strict=True)]
        scores[f"{metric}_improvement"] = [
            None if value is None or _finite(start) is None else value - start
            for value, start in zip(scores[metric], before, strict=True)
        ]
    return scores


def _order(estimates: Samples, references: Samples) -> list[int]:
    pairwise = pairwise_si_sdr(_tensor(estimates).unsqueeze(0), _tensor(references).unsqueeze(0))
    _, permutation = best_permutation(pairwise)
    return [int(index) for index in permutation[0]]


def _values(metric: str, references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    if metric == "si_sdr":
        return [float(value) for value in si_sdr(_tensor(estimates), _tensor(references))]
    if metric == "sdr":
        return _bss_eval_sdr(references, estimates)
    if metric == "magnitude_snr":
        return [float(v) for v in magnitude_snr(_tensor(estimates), _tensor(references), sample_rate)]
    if metric == "dnsmos":
        return [dnsmos(estimate, sample_rate) for estimate in estimates]
    pairs = zip(references, estimates, strict=True)
    if metric == "pesq":
        return [_pesq(reference, estimate, sample_rate) for reference, estimate in pairs]
    return [_stoi(reference, estimate, sample_rate) for reference, estimate in pairs]


def _bss_eval_sdr(references: Samples, estimates: Samples) -> list[float]:
    import fast_bss_eval

    values = []
    for reference, estimate in zip(references, estimates, strict=True):
        if not reference.any() or not estimate.any():
            values.append(math.nan if not reference.any() else -100.0)
            continue
        # For SDR alone, a source is projected on its own reference only: each pair is on its own.
        value = fast_bss_eval.sdr(
            reference[None].astype(np.float64), estimate[None].astype(np.float64), return_perm=False
        )
        values.append(float(np.squeeze(value)))
    return values


def _pesq(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    import pesq

    if sample_rate not in (8000, 16000) or not reference.any() or not estimate.any():
        return math.nan
    try:
        return float(pesq.pesq(sample_rate, reference, estimate, "wb" if sample_rate == 16000 else "nb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError):
        return math.nan


def _stoi(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # It warns, and returns 1e-5, where there is too little speech.
        try:
            return float(stoi(reference, estimate, sample_rate))
        except (RuntimeWarning, UserWarning, ValueError):
            return math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _tensor(samples: Samples) -> torch.Tensor:
    return torch.from_numpy(np.array(samples))  # A copy: what was broadcast may not be written to.
