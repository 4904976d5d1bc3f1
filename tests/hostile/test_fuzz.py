"""Some cases of the fuzzer in every run of the tests; `make fuzz` tries as many as time allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile.fuzz import TARGETS, run_case

CASES = {"audio": 150, "model": 60, "recipe": 40, "manifest": 150, "summary": 30}


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input_gives_a_finite_answer_or_one_sentence(target: str, tmp_path: Path) -> None:
    faults = {}
    for case in range(CASES[target]):
        folder = tmp_path / str(case)
        folder.mkdir()
        if (wrong := run_case(target, 0, case, folder)) is not None:
            faults[case] = wrong
    assert not faults, "\n".join(
        f"--target {target} --case {case}: {wrong}" for case, wrong in faults.items()
    )
