"""Rebuild this folder's audio from pocketsphinx's source distribution.

pip download --no-deps --no-binary :all: pocketsphinx==5.1.1
tar xzf pocketsphinx-5.1.1.tar.gz
python examples/make_examples.py pocketsphinx-5.1.1/test/data
"""

import sys
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
HERE = Path(__file__).parent
BOOK = ("0870", "0880", "0890", "0920", "0930")
COMMANDS = ("goforward", "numbers", "something")


def read_raw(path: Path) -> np.ndarray:
    """16-bit little-endian samples without a header."""
    return np.frombuffer(path.read_bytes(), dtype="<i2").astype(np.float64) / 32768


def at_level(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Samples with the loudest tenth of a second's frames at the given level."""
    frames = samples[: len(samples) // 400 * 400].reshape(-1, 400)
    power = np.square(frames).mean(axis=1)
    return samples * 10 ** (decibels / 20) / np.sqrt(power[power > power.max() * 1e-3].mean())


def write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype="PCM_16")


def main(data: Path) -> None:
    book = {}
    for number in BOOK:
        name = f"sense_and_sensibility_01_austen_64kb-{number}"
        book[number], rate = soundfile.read(data / "librivox" / f"{name}.wav")
        assert rate == RATE
        write(HERE / "speech" / "librivox_reader" / f"sense_and_sensibility_{number}.flac", book[number])
    commands = {name: read_raw(data / f"{name}.raw") for name in COMMANDS}
    for name, samples in commands.items():
        write(HERE / "speech" / "sphinx_speaker" / f"{name}.flac", samples)

    # One mixture of natural overlap: the reader begins, two commands fall in, 2 dB quieter.
    first = at_level(book["0870"], -25)
    second = np.zeros_like(first)
    position = int(0.4 * RATE)
    for name in ("goforward", "something"):
        part = at_level(commands[name], -27)[: len(second) - position]
        second[position : position + len(part)] = part
        position += len(part) + int(0.2 * RATE)
    first, second = (np.round(source * 32768) / 32768 for source in (first, second))
    name = "reader_and_commands.flac"
    write(HERE / "two_speakers" / "mix" / name, first + second)
    write(HERE / "two_speakers" / "s1" / name, first)
    write(HERE / "two_speakers" / "s2" / name, second)

    # The reader in wind-like noise that comes and goes, 2 dB below the voice on average.
    clean = at_level(book["0880"], -25)
    rng = np.random.default_rng(5)
    noise = np.fft.rfft(rng.standard_normal(len(clean)))
    noise /= np.maximum(np.fft.rfftfreq(len(clean), 1 / RATE), 80.0) / 80.0
    wind = np.fft.irfft(noise, len(clean))
    gusts = rng.uniform(0.2, 1.0, 2 * len(clean) // RATE + 2)
    wind *= np.interp(np.linspace(0, len(gusts) - 1, len(clean)), np.arange(len(gusts)), gusts)
    wind *= 10 ** (-27 / 20) / np.sqrt(np.square(wind).mean())
    clean, wind = (np.round(source * 32768) / 32768 for source in (clean, wind))
    write(HERE / "in_noise" / "noisy" / "reader_in_wind.flac", clean + wind)
    write(HERE / "in_noise" / "clean" / "reader_in_wind.flac", clean)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
