"""Scores of one mixture's estimates, speaker by speaker, in the order of the references.

The permutation of estimates is the one with the best mean SI-SDR; every other metric uses it too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import permutations

import numpy as np
import torch

from unmingle.audio import Samples
from unmingle.errors import UnmingleError
from unmingle.evaluation.dnsmos import DNSMOS_RATE, dnsmos
from unmingle.metrics import LIMIT_DB, magnitude_snr, si_sdr
from unmingle.permutation import pairwise_si_sdr

DEFINITIONS = {
    "si_sdr": "scale-invariant SDR in dB, Le Roux et al. 2019, means removed",
    "sdr": "BSS-eval version 3 SDR in dB, 512-tap filters, by fast-bss-eval",
    "sir": "BSS-eval version 3 SIR in dB: what is left of the other sources",
    "sar": "BSS-eval version 3 SAR in dB: what is neither source",
    "magnitude_snr": "SNR of magnitude spectrograms in dB, Isik et al. 2016",
    "pesq": "PESQ MOS-LQO, ITU-T P.862: narrow band below 16 kHz, wide band at 16 kHz",
    "stoi": "short-time objective intelligibility, Taal et al. 2011",
    "estoi": "extended STOI, Jensen & Taal 2016",
    "dnsmos": "DNSMOS P.835 overall rating at 16 kHz, Reddy et al. 2022; no reference needed",
}
_PACKAGES = {
    "pesq": ("pesq",),
    "stoi": ("pystoi",),
    "estoi": ("pystoi",),
    "dnsmos": ("speechmos", "onnxruntime"),
}
_PESQ_RATES = (8000, 16000)
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


def fit_estimates(estimates: Samples, references: Samples) -> Samples:
    """Estimates ``(sources, samples)`` in the order of the references, by the best mean SI-SDR.

    Of too many the best are taken; in place of what lacks there is silence.
    """
    if len(estimates) < len(references):
        lacking = len(references) - len(estimates)
        estimates = np.concatenate([estimates, np.zeros((lacking, estimates.shape[1]), dtype=np.float32)])
    pairwise = pairwise_si_sdr(_tensor(estimates).unsqueeze(0), _tensor(references).unsqueeze(0))[0].numpy()
    order = max(
        permutations(range(len(estimates)), len(references)),
        key=lambda picked: sum(pairwise[row, column] for row, column in enumerate(picked)),
    )
    ordered: Samples = estimates[list(order)]
    return ordered


def score_mixture(
    mixture: Samples, references: Samples, estimates: Samples, sample_rate: int, metrics: Sequence[str]
) -> dict[str, list[float | None]]:
    """Every metric and its improvement over the mixture (``..._improvement``), one value per speaker.

    Args:
        mixture: ``(samples,)``.
        references: ``(sources, samples)``.
        estimates: ``(estimates, samples)``, in any order, see :func:`fit_estimates`.
        sample_rate: in hertz.
        metrics: names from :data:`DEFINITIONS`.

    Returns:
        Lists in the order of the references. None where a metric is not defined: for a silent
        reference, and where PESQ finds no speech. A silent estimate scores -100 dB.

    Raises:
        ValueError: an estimate is not finite.
    """
    if not np.isfinite(estimates).all():
        raise ValueError("an estimate is not finite")
    ordered = fit_estimates(estimates, references)
    unchanged = np.broadcast_to(mixture, references.shape)
    silent = [_is_silent(reference) for reference in references]
    bss = [name for name in ("sdr", "sir", "sar") if name in metrics]
    bss_after, bss_before = (_bss_eval(references, given, bss) for given in (ordered, unchanged))
    scores: dict[str, list[float | None]] = {}
    for metric in metrics:
        if metric in bss:
            after, before = bss_after[metric], bss_before[metric]
        else:
            after = _values(metric, references, ordered, sample_rate)
            before = _values(metric, references, unchanged, sample_rate)
        scores[metric] = [None if mute else _finite(value) for value, mute in zip(after, silent, strict=True)]
        # The mixture has no artifacts at all, so there is nothing to improve on.
        scores[f"{metric}_improvement"] = [
            None if value is None or _finite(start) is None or metric == "sar" else value - start
            for value, start in zip(scores[metric], before, strict=True)
        ]
    return scores


def why_undefined(
    scores: dict[str, list[float | None]], references: Samples, sample_rate: int
) -> tuple[str, ...]:
    """For every metric that has an empty cell, why; each reason once."""
    reasons = []
    for metric in (name for name in scores if name in DEFINITIONS):
        for value, reference in zip(scores[metric], references, strict=True):
            if value is not None:
                continue
            if _is_silent(reference):
                reasons.append("a silent reference")
            elif metric == "pesq" and sample_rate not in _PESQ_RATES:
                reasons.append(f"no PESQ at {sample_rate} Hz: it is for 8000 and 16000")
            elif metric == "dnsmos" and sample_rate != DNSMOS_RATE:
                reasons.append(f"no DNSMOS at {sample_rate} Hz: it is for {DNSMOS_RATE}")
            elif metric == "sir" and len(references) == 1:
                reasons.append("no SIR: there is one source")
            elif metric in ("sir", "sar"):
                reasons.append("no SIR and SAR: the references cannot be told apart")
            else:
                reasons.append(f"no {metric.upper()}: it found too little speech")
    return tuple(dict.fromkeys(reasons))


def _is_silent(reference: Samples) -> bool:
    # But for an offset, which is no sound.
    return float(np.square(reference - reference.mean()).sum()) < 1e-10


def _values(metric: str, references: Samples, estimates: Samples, sample_rate: int) -> list[float]:
    if metric == "si_sdr":
        return [float(value) for value in si_sdr(_tensor(estimates), _tensor(references))]
    if metric == "magnitude_snr":
        return [float(v) for v in magnitude_snr(_tensor(estimates), _tensor(references), sample_rate)]
    if metric == "dnsmos":
        return [dnsmos(estimate, sample_rate) for estimate in estimates]
    pairs = zip(references, estimates, strict=True)
    if metric == "pesq":
        return [_pesq(reference, estimate, sample_rate) for reference, estimate in pairs]
    extended = metric == "estoi"
    return [_stoi(reference, estimate, sample_rate, extended) for reference, estimate in pairs]


def _bss_eval(references: Samples, estimates: Samples, names: Sequence[str]) -> dict[str, list[float]]:
    """SDR, SIR and SAR of estimates in the order of the references; -100 for silence, NaN against it."""
    import fast_bss_eval

    values = {name: [math.nan] * len(references) for name in names}
    heard = [k for k, reference in enumerate(references) if reference.any()]
    sound = [k for k in heard if estimates[k].any()]
    for name in names:
        for k in heard:
            values[name][k] = -LIMIT_DB
    if not sound or not names:
        return values
    wide = torch.from_numpy(references[heard].astype(np.float64))
    if "sdr" in names:
        # For SDR a source is projected on its own reference only: each pair is on its own. By torch, which keeps
        # to its number of threads; NumPy's libraries take all cores for matrices as small as these.
        own, given = (
            torch.from_numpy(audio[sound].astype(np.float64)).unsqueeze(1)
            for audio in (references, estimates)
        )
        sdr = fast_bss_eval.sdr(own, given, clamp_db=LIMIT_DB, return_perm=False)
        for k, value in zip(sound, sdr.squeeze(-1).tolist(), strict=True):
            values["sdr"][k] = float(np.clip(value, -LIMIT_DB, LIMIT_DB))
    if names != ["sdr"]:
        # Interference is what the projection on all references holds beyond that on one's own.
        full = np.stack([estimates[k] if k in sound else references[k] for k in heard]).astype(np.float64)
        try:
            # Its NumPy side does not know NumPy 2; its torch side computes the same.
            _, sir, sar = fast_bss_eval.bss_eval_sources(
                wide, torch.from_numpy(full), clamp_db=LIMIT_DB, compute_permutation=False
            )
        except RuntimeError:  # One reference is a filtered other: no one can tell them apart.
            sir = sar = torch.full((len(heard),), math.nan)
        for row, k in enumerate(heard):
            for name, column in (("sir", sir), ("sar", sar)):
                if name in names and k in sound:
                    # With one source there is no interference.
                    values[name][k] = math.nan if name == "sir" and len(heard) == 1 else float(column[row])
    return values


def _pesq(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    import pesq

    if sample_rate not in _PESQ_RATES or not reference.any() or not estimate.any():
        return math.nan
    try:
        return float(pesq.pesq(sample_rate, reference, estimate, "wb" if sample_rate == 16000 else "nb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError):
        return math.nan


def _stoi(reference: Samples, estimate: Samples, sample_rate: int, extended: bool) -> float:
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # It warns, and returns 1e-5, where there is too little speech.
        try:
            return float(stoi(reference, estimate, sample_rate, extended=extended))
        except (RuntimeWarning, UserWarning, ValueError):
            return math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _tensor(samples: Samples) -> torch.Tensor:
    return torch.from_numpy(np.array(samples))  # A copy: what was broadcast may not be written to.
