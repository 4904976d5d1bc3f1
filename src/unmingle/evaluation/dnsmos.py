"""DNSMOS P.835 (Reddy et al. 2022): the overall rating of listeners, 1 to 5, predicted without a reference.

The networks come with the package speechmos. Only its model file is used, because its code imports
libraries that it does not declare as dependencies.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from unmingle.audio import Samples

DNSMOS_RATE = 16000
_WINDOW = int(9.01 * DNSMOS_RATE)
_OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""The authors' polynomial from the network's third output to the overall rating."""


def dnsmos(audio: Samples, sample_rate: int) -> float:
    """Overall rating of ``(samples,)``: the mean over windows of 9 s, one per second.

    Shorter recordings are repeated, as the authors' program does. Samples beyond full scale are clipped. The result
    is NaN for digital silence and at sample rates other than 16 kHz.
    """
    if sample_rate != DNSMOS_RATE or not audio.any():
        return math.nan
    audio = np.clip(audio, -1.0, 1.0).astype(np.float32)
    while len(audio) < _WINDOW:
        audio = np.concatenate([audio, audio])
    windows = int(math.floor(len(audio) / DNSMOS_RATE) - 9.01) + 1
    starts = [k * DNSMOS_RATE for k in range(windows) if k * DNSMOS_RATE + _WINDOW <= len(audio)]
    session = _session()
    raw = [session.run(None, {"input_1": audio[None, k : k + _WINDOW]})[0][0][2] for k in starts]
    return float(np.mean(np.polyval(_OVERALL, np.array(raw, dtype=np.float64))))


@cache
def _session() -> Any:
    import onnxruntime

    spec = find_spec("speechmos")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
