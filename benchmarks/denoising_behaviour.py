"""What a denoiser does where there is nothing to clean, or nothing to keep.

    python benchmarks/denoising_behaviour.py FOLDER [MODEL]

FOLDER holds noisy mixtures at 16 kHz. Clean speech (its first 30): SI-SDR of the output against the input. White and
pink noise alone, 20 s: level of the output, and how much it moves from tenth to tenth of a second. Its first 60
mixtures as other microphones would record them (unmingle.data.microphones.KNOWN), and as a file at 8 kHz holds them:
SI-SDR improvement.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from unmingle.audio import Samples, read_audio, resample
from unmingle.data.microphones import KNOWN, apply_response, known_response
from unmingle.denoising import Enhancer, load_denoiser
from unmingle.evaluation.summary import bootstrap_interval
from unmingle.metrics import si_sdr
from unmingle.models import DEFAULT_DENOISER

RATE = 16000


def decibels(audio: Samples) -> Samples:
    """Level of every tenth of a second after the first one of the recording."""
    frames = audio[RATE:].reshape(-1, RATE // 10)
    levels: Samples = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    return levels


def recorded(audio: Samples, microphone: str) -> Samples:
    if microphone == "8 kHz":
        return resample(resample(audio, RATE, 8000), 8000, RATE)[: len(audio)]
    if microphone == "as recorded":
        return audio
    return apply_response(known_response(microphone, len(audio), RATE), audio)


def microphones(enhancer: Enhancer, folder: Path) -> None:
    print("\n| microphone | SI-SDRi (dB) | 95 % | made worse |\n| --- | --- | --- | --- |")
    for microphone in ("as recorded", *KNOWN, "8 kHz"):
        gains = []
        for path in sorted((folder / "noisy").iterdir())[:60]:
            both = [read_audio(folder / part / path.name).samples[0] for part in ("noisy", "clean")]
            noisy, clean = (recorded(audio, microphone) for audio in both)
            output = enhancer.denoise(noisy, RATE)
            after, before = (si_sdr(torch.from_numpy(x), torch.from_numpy(clean)) for x in (output, noisy))
            gains.append(float(after - before))
        low, high = bootstrap_interval(gains)
        worse = np.mean([gain < 0 for gain in gains])
        print(f"| {microphone} | {np.mean(gains):.2f} | {low:.2f} to {high:.2f} | {worse:.0%} |", flush=True)


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
    microphones(enhancer, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
