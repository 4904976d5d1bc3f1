"""`make demo`: separate the example mixture, clean the example noisy recording, and score both against their sources.

With matplotlib installed it also draws the spectrograms of the mixture and its estimates, demo/spectrograms.png.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import soundfile
import torch

from unmingle.metrics import si_sdr
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.stft import Stft

EXAMPLES = Path(__file__).parent
OUTPUT = Path("demo")


def run(command: str, path: Path, *options: str) -> dict[str, Any]:
    """Run a command of `unmingle` on one file and return its JSON result."""
    program = str(Path(sys.executable).parent / "unmingle")
    arguments = [program, command, str(path), "-o", str(OUTPUT), "--overwrite", "--json", *options]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    (result,) = json.loads(done.stdout)["files"]
    return dict(result)


def read(path: str | Path) -> torch.Tensor:
    """Samples of a file of one channel, ``(samples,)``."""
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0])


def print_speed(result: dict[str, Any]) -> None:
    factor = result["real_time_factor"]
    print(f"speed      {1 / factor:.1f} times real time")


def separate() -> None:
    here, name = EXAMPLES / "two_speakers", "reader_and_commands.flac"
    result = run("separate", here / "mix" / name, "--speakers", "2")
    mixture = read(here / "mix" / name)
    sources = torch.stack([read(here / part / name) for part in ("s1", "s2")]).unsqueeze(0)
    estimates = torch.stack([read(path) for path in result["outputs"]]).unsqueeze(0)
    before, _ = best_permutation(pairwise_si_sdr(mixture.expand_as(sources), sources))
    after, _ = best_permutation(pairwise_si_sdr(estimates, sources))
    print(f"mixture    {here / 'mix' / name}  ({result['seconds']:.1f} s, two speakers)")
    for number, path in enumerate(result["outputs"], start=1):
        print(f"speaker {number}  {path}")
    print(f"SI-SDR     mixture {float(before):.1f} dB, separated {float(after):.1f} dB", end="")
    print(f" ({float(after - before):+.1f} dB, mean of both speakers)")
    print_speed(result)
    if find_spec("matplotlib"):
        print(f"picture    {draw([mixture, *estimates[0]], soundfile.info(here / 'mix' / name).samplerate)}")
    else:
        print("picture    none: it needs matplotlib (.venv/bin/pip install matplotlib)")


def draw(signals: list[torch.Tensor], sample_rate: int) -> Path:
    """Draw the spectrograms of a mixture and its estimates up to 4 kHz, the band that the model separates."""
    from matplotlib.figure import Figure

    stft = Stft(window_length=512, hop=256)
    levels = [20 * stft.analyse(signal).abs().clamp(min=1e-7).log10() for signal in signals]
    loudest = float(levels[0].max())
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    titles = ["mixture", *(f"estimate of speaker {number}" for number in range(1, len(signals)))]
    panels = figure.subplots(1, len(signals), sharey=True)
    for panel, title, level, signal in zip(panels, titles, levels, signals, strict=True):
        panel.imshow(
            level.T.numpy(),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=loudest - 70,
            vmax=loudest - 10,
            extent=(0, len(signal) / sample_rate, 0, sample_rate / 2000),
        )
        panel.set(title=title, xlabel="time (s)", ylim=(0, 4), xticks=range(0, len(signal) // sample_rate, 2))
    panels[0].set_ylabel("frequency (kHz)")
    path = OUTPUT / "spectrograms.png"
    figure.savefig(path, dpi=100)
    return path


def denoise() -> None:
    here, name = EXAMPLES / "in_noise", "reader_in_wind.flac"
    result = run("denoise", here / "noisy" / name)
    noisy, cleaned, clean = read(here / "noisy" / name), read(result["output"]), read(here / "clean" / name)
    before, after = float(si_sdr(noisy, clean)), float(si_sdr(cleaned, clean))
    print(f"noisy      {here / 'noisy' / name}  ({result['seconds']:.1f} s, one speaker in synthetic wind)")
    print(f"cleaned    {result['output']}")
    print(f"SI-SDR     noisy {before:.1f} dB, cleaned {after:.1f} dB ({after - before:+.1f} dB)")
    print_speed(result)


def main() -> None:
    separate()
    print()
    denoise()


if __name__ == "__main__":
    main()
