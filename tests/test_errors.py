from __future__ import annotations

import pickle

from unmingle.errors import UnmingleError


def test_an_error_is_one_line_whatever_a_name_holds() -> None:
    error = UnmingleError("a\nb\x1b[31m\0.wav does not exist; check the name é 日.")
    assert str(error) == r"a\nb\x1b[31m\x00.wav does not exist; check the name é 日."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
