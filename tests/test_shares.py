"""Shares of a job, and the parts that they leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmingle.errors import UnmingleError
from unmingle.shares import WHOLE, Parts, Share, parse_share


@pytest.mark.parametrize("of", [1, 2, 5, 11])
def test_every_unit_is_in_one_share(of: int) -> None:
    shares = [Share(number, of).pick(range(7)) for number in range(1, of + 1)]
    assert sorted(unit for share in shares for unit in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert parse_share(f"1/{of}") == Share(1, of)
    assert WHOLE.pick(range(7)) == list(range(7))


def test_parts_are_read_when_all_are_there(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", 3)
    parts.begin(["plan", 1])
    assert parts.missing(WHOLE) == [0, 1, 2]
    assert parts.missing(Share(2, 2)) == [1]
    for unit in (2, 0):
        parts.write(unit, {"number": unit, "third": 1 / 3})
        assert parts.read() is None
    assert parts.missing(WHOLE) == [1]
    Parts(tmp_path / "parts", 3).write(1, None)
    assert parts.read() == [{"number": 0, "third": 1 / 3}, None, {"number": 2, "third": 1 / 3}]


def test_parts_of_another_plan_are_refused(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", 2)
    parts.begin(["plan"])
    parts.begin(["plan"])
    with pytest.raises(UnmingleError, match="other options"):
        parts.begin(["other"])
    (tmp_path / "parts" / "plan").unlink()
    parts.write(0, 0)
    with pytest.raises(UnmingleError, match="other options"):  # Whose plan is not known.
        parts.begin(["plan"])


def test_a_temporary_file_of_another_share_is_no_part(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / ".unmingle-1.partial").write_bytes(b"half a plan")
    Parts(folder, 2).begin({"seed": 1})
    with pytest.raises(UnmingleError, match="other options"):
        Parts(folder, 2).begin({"seed": 2})
