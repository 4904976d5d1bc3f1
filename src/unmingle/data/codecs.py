"""Codecs of telephones, internet calls and small files.

Opus, MP3 and AMR come from PyAV (FFmpeg's libraries). ``telephone`` is G.711, computed from its equation: 8 kHz, and
8 bits with the mu-law.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from unmingle.audio import Samples, resample
from unmingle.errors import UnmingleError

CodecName = Literal["opus", "mp3", "amr", "telephone"]

_MU = 255.0
_TELEPHONE_RATE = 8000
_LONGEST_LAG = 0.1
"""Maximum delay of a codec in seconds."""


@dataclass(frozen=True)
class _Library:
    """An encoder and a decoder of PyAV."""

    encoder: str
    decoder: str
    sample_format: str
    rates: Mapping[int, tuple[int, ...]]
    """By sample rate in hertz: bit rates in bits per second, each equally likely."""
    options: Mapping[str, str] = field(default_factory=dict)


_LIBRARIES: dict[str, _Library] = {
    # Fastest settings: their effect is small compared to that of the bit rate.
    "opus": _Library(
        "libopus", "libopus", "flt", {16000: (8000, 12000, 16000, 24000)}, {"compression_level": "0"}
    ),
    "mp3": _Library(
        "libmp3lame", "mp3float", "fltp", {16000: (16000, 24000, 32000)}, {"compression_level": "9"}
    ),
    "amr": _Library("libopencore_amrnb", "libopencore_amrnb", "s16", {8000: (4750, 5900, 6700, 7950, 12200)}),
}


@dataclass(frozen=True)
class Codec:
    """One codec at one bit rate."""

    name: CodecName
    bit_rate: int
    """In bits per second."""

    def __call__(self, audio: Samples, sample_rate: int) -> Samples:
        """Audio ``(samples,)``, coded and decoded, with the same rate, the same length and no delay."""
        if self.name == "telephone":
            coded, rate, lag = mu_law(resample(audio, sample_rate, _TELEPHONE_RATE)), _TELEPHONE_RATE, 0
        else:
            (wanted,) = _LIBRARIES[self.name].rates
            coded, rate = _through(self, resample(audio, sample_rate, wanted), wanted)
            lag = _lag(self)
        decoded = resample(coded[lag:], rate, sample_rate)[: len(audio)]
        return np.pad(decoded, (0, len(audio) - len(decoded))).astype(np.float32)


def draw_codec(rng: np.random.Generator, name: CodecName) -> Codec:
    """The codec at a random one of its bit rates."""
    if name == "telephone":
        return Codec(name, 64000)
    (rates,) = _LIBRARIES[name].rates.values()
    return Codec(name, int(rng.choice(rates)))


def check_codecs(names: list[CodecName]) -> None:
    """Check that the codecs are installed.

    Raises:
        UnmingleError: PyAV or one of its libraries is missing.
    """
    for name in names:
        if name == "telephone":
            continue
        try:
            import av

            av.Codec(_LIBRARIES[name].encoder, "w")
            av.Codec(_LIBRARIES[name].decoder, "r")
        except (ImportError, ValueError) as error:
            raise UnmingleError(
                f"The codec {name} needs PyAV with {_LIBRARIES[name].encoder}; install it with: pip install "
                "'unmingle[media]', or leave the codec out of mixing.recorder.codecs."
            ) from error


def mu_law(audio: Samples) -> Samples:
    """``(samples,)`` in [-1, 1], compressed, rounded to 8 bits and expanded (ITU-T G.711 in closed form).

    Silence stays silence.
    """
    compressed = np.sign(audio) * np.log1p(_MU * np.minimum(np.abs(audio), 1.0)) / np.log1p(_MU)
    rounded = np.round(compressed * 127.0) / 127.0
    expanded: Samples = (np.sign(rounded) * np.expm1(np.abs(rounded) * np.log1p(_MU)) / _MU).astype(
        np.float32
    )
    return expanded


def _through(codec: Codec, audio: Samples, rate: int) -> tuple[Samples, int]:
    """Coded and decoded audio with the codec's delay, and its rate."""
    import av

    library = _LIBRARIES[codec.name]
    encoder = av.CodecContext.create(library.encoder, "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", library.sample_format
    encoder.bit_rate, encoder.options = codec.bit_rate, dict(library.options)
    encoder.open()
    decoder = av.CodecContext.create(library.decoder, "r")
    assert isinstance(decoder, av.AudioCodecContext)
    decoder.sample_rate, decoder.layout, decoder.extradata = rate, "mono", encoder.extradata
    size = encoder.frame_size
    if library.sample_format == "s16":
        audio = np.round(audio.clip(-1.0, 1.0) * 32767).astype(np.int16)
    # The silence at the end flushes the codec's delay.
    audio = np.pad(audio, (0, -len(audio) % size + round(_LONGEST_LAG * rate) // size * size + size))
    decoded, found = [], rate
    packets = []
    for start in range(0, len(audio), size):
        frame = av.AudioFrame.from_ndarray(
            audio[None, start : start + size], format=library.sample_format, layout="mono"
        )
        frame.sample_rate, frame.pts = rate, start
        packets += encoder.encode(frame)
    for packet in [*packets, *encoder.encode(None)]:
        for piece in decoder.decode(packet):
            samples, found = piece.to_ndarray().reshape(-1), piece.sample_rate
            decoded.append(samples / np.float32(32768) if samples.dtype == np.int16 else samples)
    return np.concatenate(decoded).astype(np.float32), found


@lru_cache(maxsize=32)
def _lag(codec: Codec) -> int:
    """A codec's delay in samples of the decoded audio: the maximum of the cross-correlation with white noise."""
    (rate,) = _LIBRARIES[codec.name].rates
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * rate).astype(np.float32)
    coded, found = _through(codec, noise, rate)
    wanted = resample(noise, rate, found)
    size = len(wanted) + len(coded)
    product = np.fft.rfft(coded, size) * np.fft.rfft(wanted, size).conj()
    return int(np.argmax(np.fft.irfft(product, size)[: round(_LONGEST_LAG * found)]))
