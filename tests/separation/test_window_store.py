"""The temporary file of a long recording: what is written is what is read."""

from __future__ import annotations

import numpy as np
import torch

from unmingle.separation.stored_voices import StoredVoices
from unmingle.separation.voice_clusters import Heard
from unmingle.separation.window_store import WindowStore


def test_energies_are_those_of_the_masked_magnitudes() -> None:
    torch.manual_seed(0)
    store = WindowStore(5, magnitudes=True)
    masks, magnitude = torch.rand(2, 3, 8, 5), torch.rand(2, 8, 5)
    for number in range(2):
        store.add(6 * number, masks[number], magnitude[number])
    estimates = (masks * magnitude[:, None]).numpy()
    for number in range(2):
        whole, upper = store.energies(number), store.energies(number, upper=True)
        for i in range(3):
            for j in range(3):
                products = estimates[number, i] * estimates[number, j]
                np.testing.assert_allclose(whole[i, j], products.sum(axis=1), rtol=1e-5)
                np.testing.assert_allclose(upper[i, j], products[:, 2:].sum(axis=1), rtol=1e-5)
        found_magnitude, found_masks = store.window(number)
        np.testing.assert_allclose(found_masks, masks[number], atol=1e-3)
        np.testing.assert_allclose(found_magnitude, magnitude[number] / magnitude[number].max(), atol=1e-3)
    store.close()


def test_kept_values_are_in_the_file_and_survive_later_windows() -> None:
    store = WindowStore(5)
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).astype(np.float16) for shape in ((2, 3, 4), (3, 4))]
    kept = []
    for each in values:
        kept.append(store.keep(each))
        store.add(0, torch.rand(1, 2, 5), torch.rand(2, 5))
    for found, each in zip(kept, values, strict=True):
        np.testing.assert_array_equal(store.load(found), each)
    store.close()


def test_stored_voices_are_read_again_in_any_order() -> None:
    store = WindowStore(5)
    stored, rng = StoredVoices(store), np.random.default_rng(0)
    heard = [
        Heard(
            rng.normal(size=(2, pieces, 4)).astype(np.float16),
            rng.random((2, pieces)),
            rng.random(pieces - 1),
            float(pieces),
            rng.normal(size=(pieces, 4)).astype(np.float16),
        )
        for pieces in (5, 3, 4)
    ]
    for each in heard:
        stored.append(each)
        store.add(0, torch.rand(1, 2, 5), torch.rand(2, 5))
    assert len(stored) == 3
    for found, expected in [
        *zip(stored, heard, strict=True),
        (stored[-1], heard[2]),
        (stored[1:2][0], heard[1]),
    ]:
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    store.close()
