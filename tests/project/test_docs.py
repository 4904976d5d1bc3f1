"""What the docs say is there: links, commands and their options, recipes, benchmarks, and examples that run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from conftest import ROOT
from unmingle.cli.main import app
from unmingle.evaluation.metric_registry import METRICS

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "src/unmingle/pretrained").glob("*.md")),
]
PROGRAM = typer.main.get_command(app)
_BLOCKS = re.compile(r"^```[a-z]*\n(.*?)^```|((?:^ {4}.*\n)+)", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(unmingle [^`]+)`")


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _command_lines(text: str) -> list[str]:
    """Every line of a code block, and every piece of inline code, that calls ``unmingle``."""
    blocks = ("".join(match.groups(default="")) for match in _BLOCKS.finditer(text))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(match.group(1).split()) for match in _INLINE.finditer(text)]
    return [line for line in lines if re.search(r"(^|[|;&] *|do )\s*unmingle ", line)] + inline


def _unknown(line: str) -> list[str]:
    """Commands and options of one line that the program does not have."""
    words = [word.strip("[]").removesuffix("]...") for word in shlex.split(line, comments=True)]
    words = words[words.index("unmingle") + 1 :]
    command: Any = PROGRAM
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return [words[0]]
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    ends = [words.index(end) for end in ("|", "&&", ";") if end in words]
    named = [word.split("=")[0] for word in words[: min(ends, default=len(words))]]
    return [word for word in named if re.match(r"--?[a-z]", word) and word not in known]


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    assert _command_lines("```\ncat a | unmingle separate b\n```\nand `unmingle models`\n") == [
        "cat a | unmingle separate b",
        "unmingle models",
    ]
    assert _unknown("unmingle separate a.wav --speakers 2 -o out | sort --reverse") == []
    assert _unknown("unmingle data fetch NAME [--part PART]... --root DIR") == []
    assert _unknown("unmingle separate a.wav --people 2") == ["--people"]
    assert _unknown("unmingle seperate a.wav") == ["seperate"]


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_commands_and_options_exist(page: Path) -> None:
    wrong = {line: bad for line in _command_lines(page.read_text("utf-8")) if (bad := _unknown(line))}
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_recipes_and_benchmarks_exist(page: Path) -> None:
    named = re.findall(r"\b(?:recipes|benchmarks)/[\w/*.-]+\.(?:yaml|py)", page.read_text("utf-8"))
    missing = [name for name in named if "NAME" not in name and not any(ROOT.glob(name))]
    assert not missing


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 600


@pytest.mark.parametrize("page", sorted((ROOT / "docs/concepts").glob("*.md")), ids=_id)
def test_examples_of_the_concepts_run(page: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        exec(example, {})


def test_the_table_of_metrics_is_that_of_the_registry() -> None:
    text = (ROOT / "docs/scores.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(METRICS)
    for task, line in (("separate", "Default for mixtures:"), ("denoise", "Default for noisy speech:")):
        listed = re.sub(r",| and ", "; ", text.partition(line)[2].partition(".")[0])
        labels = [METRICS[name].label.split(" (")[0] for name in METRICS if task in METRICS[name].tasks]
        assert [label.strip() for label in listed.split(";") if label.strip()] == labels
