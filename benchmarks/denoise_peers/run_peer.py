"""Clean the first COUNT files of a folder with another denoiser, in the peers' own environment, without unmingle.

    peers/bin/python run_peer.py noisereduce|rnnoise|logmmse NOISY OUT COUNT

Each with its default settings. An output is shifted to where it agrees best with its input, because some
delay it, and SI-SDR would punish that. Prints processor seconds for a second of audio.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr


def noisereduce(audio: np.ndarray, rate: int) -> np.ndarray:
    import noisereduce

    return noisereduce.reduce_noise(y=audio, sr=rate)


def logmmse(audio: np.ndarray, rate: int) -> np.ndarray:
    import logmmse

    samples = np.round(audio * 32767).clip(-32768, 32767).astype(np.int16)
    return np.asarray(logmmse.logmmse(samples, rate), dtype=np.float64) / 32768


def rnnoise(audio: np.ndarray, rate: int) -> np.ndarray:
    from pyrnnoise import RNNoise

    raised = soxr.resample(audio, rate, 48000)
    samples = np.round(raised * 32767).clip(-32768, 32767).astype(np.int16)
    samples = np.pad(samples, (0, -len(samples) % 480 + 960))
    frames = [frame for _, frame in RNNoise(48000).denoise_chunk(samples, partial=True)]
    cleaned = np.concatenate([np.atleast_2d(frame)[0] for frame in frames]) / 32768
    return soxr.resample(cleaned, 48000, rate)


PEERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "noisereduce": noisereduce,
    "rnnoise": rnnoise,
    "logmmse": logmmse,
}


def aligned(cleaned: np.ndarray, noisy: np.ndarray, rate: int) -> np.ndarray:
    """Shifted by at most 50 ms, and cut or padded to the input's length."""
    reach = round(0.05 * rate)
    padded = np.zeros(len(noisy) + 2 * reach)
    size = min(len(cleaned), len(noisy) + reach)
    padded[reach : reach + size] = cleaned[:size]
    shifts = [padded[k : k + len(noisy)] @ noisy for k in range(2 * reach + 1)]
    best = int(np.argmax(shifts))
    return padded[best : best + len(noisy)]


def main() -> None:
    name, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    target.mkdir(parents=True, exist_ok=True)
    work = seconds = 0.0
    for path in sorted(source.glob("*.wav"))[: int(sys.argv[4])]:
        noisy, rate = soundfile.read(path)
        began = time.process_time()
        cleaned = PEERS[name](noisy, rate)
        work += time.process_time() - began
        seconds += len(noisy) / rate
        soundfile.write(target / path.name, aligned(cleaned, noisy, rate), rate, subtype="FLOAT")
    print(work / seconds)


if __name__ == "__main__":
    main()
