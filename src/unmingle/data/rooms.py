"""Rooms: the response from a distant speaker to the microphone.

A response has two parts. Up to the first 0.1 s are single echoes, from image sources (Allen & Berkley 1979, by
pyroomacoustics). After them comes noise that decays by 60 dB in the reverberation time (Polack 1988). Many echoes
sound like this noise, it is cheap, and it gives exactly the requested reverberation time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from unmingle.audio import Samples
from unmingle.config import Config
from unmingle.errors import UnmingleError

Point = NDArray[np.float64]
"""Metres, ``(3,)``."""

_SOUND_SPEED = 343.0
_ECHOES_SECONDS = 0.1
_CROSSFADE = 0.3
"""Share of the echoes' duration in which they cross-fade into noise."""
_WALL_DISTANCE = 0.3
"""Minimum distance of speakers and microphone from a wall, in metres."""
_TRIES = 200


class RoomConfig(Config):
    """Rooms of mixtures."""

    setting: Literal["random", "loudspeakers"] = "random"
    """``random``: a different room for every mixture; the planned levels are those at the microphone.
    ``loudspeakers``: one room and one set-up for all mixtures; the planned levels are those at the loudspeakers. The
    first is near the microphone, the others are far from it, as in RealTalkLibri (Mobin et al. 2018)."""
    rt60: tuple[float, float] = (0.2, 0.6)
    """Range of reverberation times in seconds."""
    distance: tuple[float, float] = (0.5, 2.0)
    """Range of distances to the microphone in metres. With ``loudspeakers``: distance of the first, and of the
    others."""
    share: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the training crops that are in a room. In test lists every mixture is."""
    early: float | None = Field(None, ge=0.0, le=5.0)
    """Seconds after the direct sound in which reflections belong to the speaker. Later ones are in the mixture, but
    in no source (default: all reflections belong to the speaker)."""
    bank: int | None = Field(None, ge=1, le=100_000)
    """Number of rooms that training draws from. They are computed once and cached (default: a new room for every
    mixture, which takes longer than the training itself)."""

    @field_validator("rt60", "distance")
    @classmethod
    def _ranges(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.05 <= value[0] <= value[1] <= 5.0:
            raise ValueError(f"it must be [low, high] between 0.05 and 5, got [{value[0]:g}, {value[1]:g}]")
        return value


@dataclass(frozen=True)
class Room:
    """The room of one mixture."""

    responses: tuple[Samples, ...]
    """From each speaker to the microphone."""
    rt60: float
    """In seconds."""
    distances: tuple[float, ...]
    """Of each speaker from the microphone, in metres."""


class RoomMaker:
    """Draws rooms; a room is a pure function of the generator's state.

    Args:
        config: ranges of the rooms.
        sample_rate: in hertz.
        seed: of the run. It decides the room of ``loudspeakers``.

    Raises:
        UnmingleError: pyroomacoustics is not installed.
    """

    def __init__(self, config: RoomConfig, sample_rate: int, seed: int) -> None:
        try:
            import pyroomacoustics  # noqa: F401
        except ImportError as error:
            raise UnmingleError(
                "Rooms need pyroomacoustics; install with: pip install 'unmingle[rooms]'"
            ) from error
        self.config, self._rate, self._seed = config, sample_rate, seed
        self._only: Room | None = None

    def draw(self, rng: np.random.Generator, speakers: int) -> Room:
        """The room of a mixture of ``speakers`` speakers.

        Raises:
            UnmingleError: the distances fit into no room.
        """
        if self.config.setting == "random":
            return self._draw(rng, [float(rng.uniform(*self.config.distance)) for _ in range(speakers)])
        if self._only is None or len(self._only.responses) != speakers:
            near, far = self.config.distance
            self._only = self._draw(np.random.default_rng([self._seed, 3]), [near] + [far] * (speakers - 1))
        return self._only

    def _draw(self, rng: np.random.Generator, distances: list[float]) -> Room:
        rt60 = float(rng.uniform(*self.config.rt60))
        for _ in range(_TRIES):
            size = rng.uniform((3.0, 2.5, 2.4), (8.0, 6.0, 3.5))
            low, high = np.full(3, _WALL_DISTANCE), size - _WALL_DISTANCE
            microphone = rng.uniform(low, high)
            places = [random_place(rng, microphone, distance, low, high) for distance in distances]
            if all(place is not None for place in places):
                found = [place for place in places if place is not None]
                responses = _responses(rng, size, rt60, microphone, found, self._rate)
                return Room(tuple(responses), rt60, tuple(distances))
        raise UnmingleError(
            f"Distances of {', '.join(f'{distance:.1f}' for distance in distances)} m do not fit into rooms of at "
            "most 8 x 6 x 3.5 m; choose smaller ones."
        )


def random_place(
    rng: np.random.Generator, microphone: Point, distance: float, low: Point, high: Point
) -> Point | None:
    """A point at ``distance`` from the microphone and away from the walls, or None if a few tries find none."""
    for _ in range(10):
        direction = rng.standard_normal(3) * (1.0, 1.0, 0.3)  # Speakers' mouths are at similar heights.
        place: Point = microphone + direction * (distance / np.linalg.norm(direction))
        if (place >= low).all() and (place <= high).all():
            return place
    return None


def _responses(
    rng: np.random.Generator,
    size: Point,
    rt60: float,
    microphone: Point,
    places: list[Point],
    sample_rate: int,
) -> list[Samples]:
    import pyroomacoustics

    volume = float(np.prod(size))
    surface = 2 * float(size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    # Eyring's formula: Sabine's has no solution for small reverberation times.
    absorption = 1.0 - np.exp(-0.161 * volume / (surface * rt60))
    order = int(np.ceil(_echoes_seconds(rt60) * _SOUND_SPEED / size.min())) + 1
    # With several threads the order of additions varies, and the same room gives different bytes.
    pyroomacoustics.constants.set("num_threads", 1)
    room = pyroomacoustics.ShoeBox(
        size, fs=sample_rate, materials=pyroomacoustics.Material(float(absorption)), max_order=order
    )
    for place in places:
        room.add_source(place)
    room.add_microphone(microphone)
    room.compute_rir()
    # The fractional delay filters start before their centre. This delay does not belong to the room.
    ahead = pyroomacoustics.constants.get("frac_delay_length") // 2
    return [_with_tail(rng, np.asarray(echoes)[ahead:], rt60, sample_rate) for echoes in room.rir[0]]


def _echoes_seconds(rt60: float) -> float:
    """Duration of single echoes. They decay a little too slowly, so short responses have a smaller part of them."""
    return min(_ECHOES_SECONDS, 0.3 * rt60)


def _with_tail(rng: np.random.Generator, echoes: Samples, rt60: float, sample_rate: int) -> Samples:
    """Single echoes that cross-fade into decaying noise. The noise has their energy in the cross-fade."""
    end = round(_echoes_seconds(rt60) * sample_rate)
    fade = round(_CROSSFADE * end)
    length = max(end, round(rt60 * sample_rate))
    response = np.zeros(length)
    head = min(len(echoes), end)
    response[:head] = echoes[:head]
    envelope = 10 ** (-3 * np.arange(length) / (sample_rate * rt60))
    joint = slice(end - fade, end)
    tail = rng.standard_normal(length) * envelope
    energy = float(np.square(tail[joint]).sum())
    tail *= np.sqrt(float(np.square(response[joint]).sum()) / max(energy, 1e-30))
    rise = np.linspace(0.0, np.pi / 2, fade)
    response[joint] = response[joint] * np.cos(rise) + tail[joint] * np.sin(rise)
    response[end:] = tail[end:]
    return response.astype(np.float32)


def early_part(room: Room, seconds: float, sample_rate: int) -> Room:
    """The room without the reflections that arrive more than ``seconds`` after the direct (loudest) sound."""
    ends = (int(np.abs(each).argmax()) + 1 + round(seconds * sample_rate) for each in room.responses)
    kept = tuple(each[:end] for each, end in zip(room.responses, ends, strict=True))
    return Room(kept, room.rt60, room.distances)


def in_room(sources: Samples, room: Room) -> Samples:
    """Sources ``(speakers, samples)`` at the microphone. Reverberation after the last sample is cut."""
    from scipy.signal import fftconvolve

    received = [
        fftconvolve(source, response)[: len(source)]
        for source, response in zip(sources, room.responses, strict=True)
    ]
    return np.stack(received).astype(np.float32)
