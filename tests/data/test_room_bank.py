"""A bank of rooms: computed once, the same rooms for everybody, and a share of the crops in them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora
from unmingle.data.mixing import Mixer
from unmingle.data.mixing_config import MixingConfig
from unmingle.data.room_bank import open_room_bank
from unmingle.data.rooms import RoomConfig, RoomMaker, in_room

RATE = 8000
CONFIG = RoomConfig(bank=3, rt60=(0.2, 0.3))


def test_a_bank_holds_the_rooms_that_the_maker_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = open_room_bank(CONFIG, 2, RATE, 7, tmp_path)
    made = [RoomMaker(CONFIG, RATE, 7).draw(np.random.default_rng([7, 5, k]), 2) for k in range(3)]
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(30):
        drawn = bank.draw(rng, 2)
        match = [
            number
            for number, room in enumerate(made)
            for order in ((0, 1), (1, 0))
            if all(
                np.allclose(response[: len(room.responses[k])], room.responses[k], atol=2e-3)
                for response, k in zip(drawn.responses, order, strict=True)
            )
        ]
        found |= set(match)
        assert len(match) == 1
    assert found == {0, 1, 2}
    # The second time nothing is computed, and worker processes map the same file.
    monkeypatch.setattr(RoomMaker, "draw", None)
    again = pickle.loads(pickle.dumps(open_room_bank(CONFIG, 2, RATE, 7, tmp_path)))
    first, second = (each.draw(np.random.default_rng(1), 1).responses[0] for each in (bank, again))
    np.testing.assert_array_equal(first, second)


def test_only_a_share_of_the_crops_is_in_a_room(example_corpus: Path, tmp_path: Path) -> None:
    utterances = read_corpora([str(example_corpus)], "train")
    speech = decode(utterances, RATE)
    room = CONFIG.model_copy(update={"share": 0.5})
    bank = open_room_bank(room, 2, RATE, 0, tmp_path)
    mixer = Mixer(utterances, speech, RATE, MixingConfig(room=room), 0, rooms=bank)
    dry = Mixer(utterances, speech, RATE, MixingConfig(), 0)
    rooms = []
    for index in range(40):
        example = mixer.example(index, 4000)
        rooms.append(example.room is not None)
        plain = dry.example(index, 4000).sources
        expected = plain if example.room is None else in_room(plain, example.room)
        for source, wanted in zip(example.sources, expected, strict=True):
            assert np.corrcoef(source, wanted)[0, 1] > 0.9999
    assert 10 < sum(rooms) < 30


def test_late_reverberation_can_belong_to_nobody(example_corpus: Path, tmp_path: Path) -> None:
    utterances = read_corpora([str(example_corpus)], "train")
    speech = decode(utterances, RATE)
    bank = open_room_bank(CONFIG, 2, RATE, 0, tmp_path)
    whole = Mixer(utterances, speech, RATE, MixingConfig(room=CONFIG), 0, rooms=bank)
    early = CONFIG.model_copy(update={"early": 0.03})
    assert open_room_bank(early, 2, RATE, 0, tmp_path).draw(np.random.default_rng(0), 2).responses
    assert len(list(tmp_path.glob("rooms-*"))) == 1  # The rooms are the same.
    mixer = Mixer(utterances, speech, RATE, MixingConfig(room=early), 0, rooms=bank)
    for k in range(4):
        all_, some = whole.example(k, 8000), mixer.example(k, 8000)
        assert all_.noise is None
        assert some.noise is not None
        scale = np.abs(all_.mixture).max() / np.abs(some.mixture).max()
        np.testing.assert_allclose(some.mixture * scale, all_.mixture, atol=1e-4)
        assert some.room is not None
        for source, dry, response in zip(
            some.sources, mixer.render(mixer.crop(k, 8000)), some.room.responses, strict=True
        ):
            kept = response[: int(np.abs(response).argmax()) + 1 + round(0.03 * RATE)]
            assert np.corrcoef(source, np.convolve(dry, kept)[: len(dry)])[0, 1] > 0.9999
