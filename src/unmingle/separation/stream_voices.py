"""Give every piece of a stream's sources to the speaker whose voice it is.

The pieces of the last two minutes are clustered by voice, as those of a recording are
(:mod:`~unmingle.separation.voice_clusters`). The clusters change with every window. But the speaker of a piece is
decided only once, shortly before its output.
"""

from __future__ import annotations

import numpy as np

from unmingle.audio import Samples
from unmingle.separation.turns import PIECE_SECONDS, REACH, hear, shares
from unmingle.separation.voice_clusters import AUDIBLE, PIECE, Array, Heard, Labels, VoiceClusters
from unmingle.speaker_encoder import SpeakerEncoder

_MOST_PIECES = 500
"""Number of pieces that are remembered: two minutes."""
_HEARD_SECONDS = 5.0
"""Length of the end of a window in which voices are heard, at least."""
_NEW_EVERY = 4
"""Windows after which new clusters are tried, and not only those of the window before."""
_EDGE = REACH // PIECE
"""Number of pieces at both ends of what is heard that are heard better in the window before or after."""
_FADING = 0.99
"""Decay of the usual level from one window to the next."""


class StreamVoices:
    """The voices of one stream.

    Args:
        encoder: hears voices.
        sample_rate: of the sources, in hertz.
        speakers: number of sources, which is the number of speakers.
    """

    def __init__(self, encoder: SpeakerEncoder, sample_rate: int, speakers: int) -> None:
        self._encoder, self._rate, self._speakers = encoder, sample_rate, speakers
        self._length = round(PIECE_SECONDS * sample_rate)
        self._voices = np.zeros((speakers, 0, encoder.config.dim), dtype=np.float16)
        self._presence = np.zeros((speakers, 0))
        self._loudness = np.zeros(0)
        """Loudness between each piece and the one before."""
        self._first = 0
        """Number of the first piece that is remembered."""
        self._decided: Labels = np.zeros((speakers, 0), dtype=np.intp)
        """The speaker of every source in the first of these pieces; for the others it is not decided yet."""
        self._centres: Array | None = None
        self._divisions = 0
        self._usual = 0.0

    def listen(self, estimates: Samples, start: int, scale: float = 1.0) -> None:
        """Hear a window's estimates ``(sources, samples)``, from sample ``start`` of the stream on.

        They are divided by ``scale``.
        """
        known = self._first + self._presence.shape[1]
        late = start + estimates.shape[1] - round(_HEARD_SECONDS * self._rate)
        # With a long lag, windows lie further apart. The last pieces of the window before lacked what follows them.
        late = max(start, min(late, (known - 2 * _EDGE - 1) * self._length))
        first = -(-late // self._length)
        audio = estimates[:, first * self._length - start :]
        if audio.shape[1] < self._length // 2:
            return
        heard = hear(self._encoder, audio, self._rate, scale)
        self._usual = max(heard.level, _FADING * self._usual)
        audible = min(1.0, heard.level / max(AUDIBLE * self._usual, 1e-30))
        kept = min(known, first + _EDGE if first else 0) - self._first
        new = slice(self._first + kept - first, None)
        loudness = np.concatenate([[0.0], heard.loudness])
        self._voices = np.concatenate([self._voices[:, :kept], heard.voices[:, new]], axis=1)
        presence = audible * heard.presence[:, new]
        self._presence = np.concatenate([self._presence[:, :kept], presence], axis=1)
        self._loudness = np.concatenate([self._loudness[:kept], loudness[new]])
        self._forget()

    def _forget(self) -> None:
        """Drop the oldest pieces."""
        past = min(self._presence.shape[1] - _MOST_PIECES, self._decided.shape[1])
        if past > 0:
            self._voices, self._presence = self._voices[:, past:], self._presence[:, past:]
            self._loudness, self._decided = self._loudness[past:], self._decided[:, past:]
            self._first += past

    def decide(self, until: int) -> None:
        """Decide who speaks in the pieces that start before sample ``until``, if that is not decided yet."""
        count, done = -(-until // self._length) - self._first, self._decided.shape[1]
        if count > done:
            self._decided = np.concatenate([self._decided, self._divided()[:, done:count]], axis=1)

    def shares(self, first: int, frames: int, hop: int) -> Samples:
        """How much of each source goes to each speaker in each frame, ``(sources, speakers, frames)``, 0 to 1.

        The first frame starts at sample ``first``, the next ``hop`` samples later. Pieces that are not decided
        yet get the speaker of the last decided piece.
        """
        labels = self._decided if self._decided.shape[1] else np.arange(self._speakers)[:, None]
        start = (first - self._first * self._length) / self._rate
        return shares(labels, self._speakers, frames, hop / self._rate, start)

    def _divided(self) -> Labels:
        """The most likely speaker of every source in all pieces."""
        if not self._presence.any():
            return np.broadcast_to(np.arange(self._speakers)[:, None], self._presence.shape)
        window = Heard(self._voices, self._presence, self._loudness[1:], 1.0, self._voices[0])
        clusters = VoiceClusters([window], [np.arange(self._speakers)], self._speakers)
        self._divisions += 1
        new = self._divisions % _NEW_EVERY == 0
        division, self._centres = clusters.follow(self._centres, self._decided, new=new)
        labels: Labels = division.labels[0]
        return labels
