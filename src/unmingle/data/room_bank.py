"""A bank of rooms: room responses that are computed once, cached, and reused in training."""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path

import numpy as np

from unmingle.data.cache import default_cache_folder, save_in_cache
from unmingle.data.rooms import Room, RoomConfig, RoomMaker
from unmingle.workers import worker_pool


class RoomBank:
    """Rooms in one memory-mapped file, each with responses for several speakers."""

    def __init__(self, path: Path, config: RoomConfig) -> None:
        self.config = config
        self._path = path
        self._responses = np.load(path, mmap_mode="r")
        """``(rooms, speakers, samples)``."""

    def __reduce__(self) -> tuple[type[RoomBank], tuple[Path, RoomConfig]]:
        # Worker processes map the same file instead of receiving a copy of it.
        return RoomBank, (self._path, self.config)

    def draw(self, rng: np.random.Generator, speakers: int) -> Room:
        """One of the rooms, with ``speakers`` of its positions in random order."""
        room = self._responses[int(rng.integers(len(self._responses)))]
        positions = rng.permutation(len(room))[:speakers]
        responses = [np.asarray(room[position], dtype=np.float32) for position in positions]
        return Room(tuple(responses), float("nan"), (float("nan"),) * speakers)


def open_room_bank(
    config: RoomConfig, speakers: int, sample_rate: int, seed: int, cache: Path | None = None
) -> RoomBank:
    """The bank of ``config.bank`` rooms for ``speakers`` speakers. It is computed if it is not in the cache.

    Raises:
        UnmingleError: pyroomacoustics is not installed, or the distances fit into no room.
    """
    assert config.bank is not None
    # ``share`` and ``early`` do not change the rooms.
    named = config.model_copy(update={"share": 1.0}).model_dump_json(exclude={"early"})
    digest = hashlib.sha256(f"{named}|{speakers}|{sample_rate}|{seed}".encode()).hexdigest()[:16]
    path = (cache or default_cache_folder()) / f"rooms-{sample_rate}-{digest}.npy"
    if not path.is_file():
        maker = RoomMaker(config, sample_rate, seed)
        length = round(config.rt60[1] * sample_rate) + sample_rate // 10
        bank = np.zeros((config.bank, speakers, length), dtype=np.float16)
        with worker_pool() as pool:
            rooms = pool.map(partial(_draw, maker, speakers, seed), range(config.bank), chunksize=8)
            for number, room in enumerate(rooms):
                for position, response in enumerate(room.responses):
                    bank[number, position, : min(length, len(response))] = response[:length]
        encoded = io.BytesIO()
        np.save(encoded, bank)
        save_in_cache([(path, encoded.getbuffer())])
    return RoomBank(path, config)


def _draw(maker: RoomMaker, speakers: int, seed: int, number: int) -> Room:
    return maker.draw(np.random.default_rng([seed, 5, number]), speakers)
