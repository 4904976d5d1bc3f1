"""The bounds of the dependencies are those that were tested."""

from __future__ import annotations

import re
import tomllib

from conftest import ROOT


def test_the_lowest_versions_are_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    stated = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    bounds: dict[str, str] = {
        found[1]: found[2] for line in stated if (found := re.match(r"([\w-]+)>=([\d.]+)", line))
    }
    tested = dict(
        re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "tests/lowest.txt").read_text("utf-8"), re.MULTILINE)
    )
    assert {"numpy", "pydantic", "typer"} <= tested.keys()
    for name, version in tested.items():
        if name in bounds:
            assert version.removesuffix(".0").startswith(bounds[name].removesuffix(".0")), name
