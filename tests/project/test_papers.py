"""The ledger of the papers' claims, and what the code says of the papers."""

from __future__ import annotations

import re

from conftest import ROOT

LEDGER = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


def _opening() -> list[list[str]]:
    """Row, claim, ours and verdict of the first table."""
    table = LEDGER.partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_ledger_opens_with_a_verdict_on_every_table_of_the_papers() -> None:
    rows = _opening()
    assert LEDGER[: LEDGER.index("\n## ")].count("\n") < 55  # One screen.
    for row, claim, here, verdict in rows:
        assert re.search(r"holds|does not hold|not run|undecided", verdict), row
        assert claim or "Sivaraman" in row, row
        assert bool(re.search(r"\d", here)) or "not run" in verdict, row
    named = {" ".join(row.partition(":")[0].split()[:2]) for row, *_ in rows}
    assert named >= {f"Isik {n}" for n in range(1, 8)} | {f"Luo {n}" for n in ("I", "II", "III", "IV", "V")}
    assert named >= {"Mobin 2", "Sivaraman 2", "Sivaraman 2b"}


def test_every_figure_of_the_opening_has_its_table_with_a_command_below() -> None:
    details = LEDGER.partition("\n## 1. ")[2]
    for row, _, here, _ in _opening():
        for figure in re.findall(r"\d+\.\d\d", here):
            differences = row.startswith(("Luo I: k-means close to ideal", "Isik 6: leaving"))
            oracle = row.startswith("Oracles") and "13.79; 14.25" in here
            assert figure in details or differences or oracle, (row, figure)


def test_quotes_are_those_of_the_tables() -> None:
    """What an audit of the papers found misquoted."""
    rows = {row: claim for row, claim, *_ in _opening()}
    assert rows["Luo I: k-means close to ideal attractors, sigmoid"] == "0.2 to 0.3 below"
    assert rows["Luo I: k-means close to ideal attractors, softmax"] == "0.5 and 0.8 below"
    assert rows["Isik 6: hard k-means as good as soft"] == "10.3; 10.3"
    assert rows["Luo V: what one net costs two; three speakers (SDR)"] == "0.4; 0.9"
    assert "10.8 to 10.4" in LEDGER
    assert "9.4 to 8.5" in LEDGER


def test_claims_that_are_easily_left_out_have_rows() -> None:
    rows = [row for row, *_ in _opening()]
    for start in (
        "Isik 7: word errors",
        "Luo III: PESQ",
        "Luo IV: three speakers: uPIT",
        "Mobin 2: the same net",
    ):
        assert any(row.startswith(start) for row in rows), start


def test_deviations_are_stated_where_they_are_made() -> None:
    for path, text in (
        ("src/unmingle/training/recipe.py", "Luo and Sivaraman state none"),
        ("src/unmingle/losses.py", "which the papers' SI-SDR does not"),
        ("src/unmingle/networks/blstm.py", "our reading of the papers"),
        ("docs/concepts/local-experts.md", "SI-SDR has a floor"),
        ("recipes/ledger/denoise-snr-256x2.yaml", "features are log magnitudes"),
    ):
        assert text in " ".join((ROOT / path).read_text(encoding="utf-8").split()), path


def test_sections_that_the_papers_do_not_have_are_not_named() -> None:
    """Luo's fixed attractors are IV-B, and the anchors IV-C."""
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]:
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert not re.search(r"Isik et al\. 2016, \d\.\d|Luo et al\. 2018, [IV]+\.[A-E]", text), path
        assert not re.search(r"\(IV\.[A-E]\)", text), path
        assert not re.search(r"Mobin(?: et al\.)?,? (?:2018, |\(2018\), )?4\.\d", text), path
        assert "WFM; Luo et al. 2018, Eq. 6" not in text, path
