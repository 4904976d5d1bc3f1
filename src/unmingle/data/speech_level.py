"""The active speech level of ITU-T P.56: the level of speech without its pauses.

Method B smooths the rectified signal into an envelope. Speech is *active* while the envelope is above a threshold,
and for a hangover after that. The threshold is the one that is 15.9 dB below the level of the active speech. Silence
between words lowers a root mean square, but not this level.

SciPy does the filtering. It comes with ``pip install 'unmingle[evaluate]'``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmingle.errors import UnmingleError

TIME_CONSTANT = 0.03
"""Time constant of the envelope in seconds."""
HANGOVER = 0.2
"""Time for which speech stays active after the envelope falls below the threshold, in seconds."""
MARGIN_DB = 15.9
"""Difference between the active level and its threshold."""
WSJ0_LEVEL_RATE = 8000
"""The rate in hertz at which WSJ0-mix measures levels."""
_PADDING = 0.35
_STEPS = 20
_NEVER = np.iinfo(np.int16).min

AnySamples = NDArray[np.float32] | NDArray[np.float64]


def speech_level(samples: AnySamples, sample_rate: int) -> float:
    """Active level of speech ``(samples,)`` as an amplitude, by ITU-T P.56 (12/2011) method B.

    It is the square root of the power of the active part, and 0.0 for silence or no samples. The thresholds are
    powers of two, with linear interpolation in decibels between them. The interpolation has a closed form; the
    Recommendation uses bisection. A gain that is a power of two scales the level exactly, any other gain within
    0.3 dB. The optional filter of the Recommendation is not applied. The level of a click, or of a few milliseconds,
    is the root mean square from its start on.

    Raises:
        UnmingleError: SciPy is not installed.
    """
    return _active_level(np.asarray(samples, dtype=np.float64), sample_rate, thresholds_per_doubling=1)


def wsj0_mix_level(samples: AnySamples) -> float:
    """The level by which the scripts of WSJ0-mix divide speech ``(samples,)`` at 8 kHz.

    They call ``activlev`` of the toolbox VOICEBOX (copies of the scripts contain its revision 9407). Its defaults
    differ from `speech_level`, and this function follows them:

    - it adds 0.35 s of silence at the end;
    - a Chebyshev filter removes frequencies below 200 Hz (its low-pass at 5.5 kHz has no effect at this rate);
    - it has two thresholds per doubling.

    The filter is computed from its definition; levels of speech agree up to rounding. On the speech in ``examples/``
    this level is 0.1 to 2 dB below `speech_level`, because of the filter. Older revisions add no silence. Their level
    is up to 0.4 dB higher for speech that is cut off at the end of 3 s, and the same for other speech.

    Raises:
        UnmingleError: SciPy is not installed.
    """
    padded = np.concatenate([samples, np.zeros(math.ceil(_PADDING * WSJ0_LEVEL_RATE))])
    return _active_level(_high_pass(padded), WSJ0_LEVEL_RATE, thresholds_per_doubling=2)


def halve_rate(samples: AnySamples) -> NDArray[np.float64]:
    """Resample ``(samples,)`` to half the rate, rounded up to whole samples, as MATLAB's ``resample(x, 1, 2)`` does.

    Both filter with a sinc of 41 taps and a Kaiser window of 5.0. The filter is 6 dB down at the new Nyquist
    frequency and lets some aliasing through. The result of a steeper resampler sounds the same, but is a different
    reference: on the speech in ``examples/`` the difference is 22 to 31 dB below the speech.

    Raises:
        UnmingleError: SciPy is not installed.
    """
    halved: NDArray[np.float64] = _scipy_signal().resample_poly(np.asarray(samples, dtype=np.float64), 1, 2)
    return halved


def _active_level(samples: NDArray[np.float64], sample_rate: int, thresholds_per_doubling: int) -> float:
    energy = float(np.sum(np.square(samples)))
    if energy == 0:
        return 0.0
    # The exponent of a binary number is the highest power of two, or of its root, that it reaches.
    mantissa, exponents = np.frexp(_envelope(samples, sample_rate) ** thresholds_per_doubling)
    exponents = np.where(mantissa > 0, exponents - 1, _NEVER).astype(np.int16)
    held = _held(exponents, math.ceil(HANGOVER * sample_rate) + 1)
    top = int(held.max())
    counts = np.bincount(np.minimum(top - held.astype(np.int64), _STEPS), minlength=_STEPS + 1)
    active = np.cumsum(counts[:_STEPS])
    levels = 10 * np.log10(energy / active)
    step_db = 20 * math.log10(2) / thresholds_per_doubling
    thresholds = step_db * (top - np.arange(_STEPS))
    return float(10 ** (_where_margin_is_met(levels, levels - thresholds - MARGIN_DB) / 20))


def _where_margin_is_met(levels: NDArray[np.float64], excess: NDArray[np.float64]) -> float:
    """The level in decibels at which ``excess`` over the margin is 0. Thresholds are in descending order.

    If there are two zeros, as for a short shout among whispers, the higher threshold counts.
    """
    crossings = np.flatnonzero((excess[:-1] < 0) & (excess[1:] >= 0))
    if len(crossings) == 0:
        # A click, or a few milliseconds: the envelope stays far below their power. The lowest threshold leaves out
        # only silence. VOICEBOX takes the highest, whose level can be above the largest sample.
        return float(levels[-1])
    above = int(crossings[0])
    share = excess[above] / (excess[above] - excess[above + 1])
    return float(levels[above] + share * (levels[above + 1] - levels[above]))


def _envelope(samples: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """The rectified signal, smoothed twice by an exponential."""
    decay = math.exp(-1 / (sample_rate * TIME_CONSTANT))
    envelope: NDArray[np.float64] = _scipy_signal().lfilter(
        [(1 - decay) ** 2], [1.0, -2 * decay, decay**2], np.abs(samples)
    )
    return envelope


def _scipy_signal() -> Any:
    try:
        import scipy.signal
    except ImportError as error:
        raise UnmingleError(
            "Measuring speech levels needs SciPy; install it with: pip install 'unmingle[evaluate]'"
        ) from error
    return scipy.signal


def _held(values: NDArray[np.int16], window: int) -> NDArray[np.int16]:
    """Maximum of every value and the ``window - 1`` values before it."""
    held = np.concatenate([np.full(window - 1, _NEVER, dtype=np.int16), values])
    width = 1
    while width < window:
        step = min(width, window - width)
        held = np.maximum(held[step:], held[:-step])
        width += step
    return held


def _high_pass(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chebyshev high-pass, type 2, order 5: -0.25 dB at 200 Hz, and -50 dB in its stop band."""
    order, stop_db, pass_db, edge = 5, 50.0, 0.25, 200.0
    # SciPy needs the edge of the stop band. Its distance from the pass band follows from the analogue prototype.
    ratio = math.cosh(math.acosh(math.sqrt((10 ** (stop_db / 10) - 1) / (10 ** (pass_db / 10) - 1))) / order)
    stop = WSJ0_LEVEL_RATE / math.pi * math.atan(math.tan(math.pi * edge / WSJ0_LEVEL_RATE) / ratio)
    sections = _scipy_signal().cheby2(order, stop_db, stop, "highpass", output="sos", fs=WSJ0_LEVEL_RATE)
    filtered: NDArray[np.float64] = _scipy_signal().sosfilt(sections, samples)
    return filtered
