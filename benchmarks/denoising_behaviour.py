"""What a denoiser does where there is nothing to clean, or nothing to keep.

    python benchmarks/denoising_behaviour.py FOLDER [MODEL]

Clean speech (the first 30 of FOLDER/clean): SI-SDR of the output against the input. White and pink noise alone, 20 s:
level of the output, and how much it moves from tenth to tenth of a second.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from unmingle.audio import Samples, read_audio
from unmingle.metrics import si_sdr
from unmingle.models import DEFAULT_DENOISER
from unmingle.separation import load_denoiser

RATE = 16000


def decibels(audio: Samples) -> Samples:
    """Level of every tenth of a second after the first one of the recording."""
    frames = audio[RATE:].reshape(-1, RATE // 10)
    levels: Samples = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    return levels


def main() -> None:
    enhancer = load_denoiser(sys.argv[2] if len(sys.argv) > 2 else DEFAULT_DENOISER)
    kept = []
    for path in sorted((Path(sys.argv[1]) / "clean").iterdir())[:30]:
        clean = read_audio(path)
        output = enhancer.denoise(clean.samples[0], clean.sample_rate)
        kept.append(float(si_sdr(torch.from_numpy(output), torch.from_numpy(clean.samples[0]))))
    print(f"clean speech, SI-SDR of the output against the input: median {np.median(kept):.1f} dB")
    print("  sorted: " + " ".join(f"{value:.0f}" for value in sorted(kept)))
    rng = np.random.default_rng(0)
    white = rng.standard_normal(20 * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(20 * RATE))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 20)))
    for name, noise in (("white", white), ("pink", pink)):
        noise = (0.1 * noise / noise.std()).astype(np.float32)
        levels = decibels(enhancer.denoise(noise, RATE))
        print(
            f"{name} noise alone at {decibels(noise).mean():.0f} dBFS comes out at {levels.mean():.0f} dBFS, "
            f"standard deviation {levels.std():.1f} dB, loudest {levels.max():.0f} dBFS"
        )


if __name__ == "__main__":
    main()
