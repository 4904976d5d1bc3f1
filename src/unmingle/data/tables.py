"""CSV tables: read any UTF-8 file of a spreadsheet program; write files in which it runs no formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from unmingle.errors import UnmingleError, reason

_FORMULA = re.compile(r"[=+\-@\t\r]")
"""First characters of a formula in a spreadsheet program."""


def read_table(path: Path, what: str = "") -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file in UTF-8, with or without a byte-order mark, which Excel writes.

    Missing cells at the end of a row are empty.

    Args:
        path: of the file.
        what: name of the file in error texts, such as ``The manifest``.

    Raises:
        UnmingleError: the file cannot be read, or is not a CSV table in UTF-8.
    """
    named = f"{what} {path}".strip()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnmingleError(f"{named} cannot be read ({reason(error)}).") from error
    return parse_table(content, named)


def parse_table(content: bytes, named: str) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of the bytes of a CSV file, as :func:`read_table` gives them.

    Args:
        content: of the file.
        named: the file in error texts, such as ``The manifest speech.csv``.

    Raises:
        UnmingleError: it is not a CSV table in UTF-8.
    """
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), restval="")
        rows = [
            {key: _unescape_formula(value) for key, value in row.items() if key is not None} for row in reader
        ]
        return [name or "" for name in reader.fieldnames or ()], rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnmingleError(f"{named} is not a UTF-8 CSV file ({error}); save it as one.") from error


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """The bytes of a CSV file. Cells that a spreadsheet would take for a formula get a leading quotation mark.

    :func:`read_table` removes the mark. Numbers stay as they are.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_escape_formula(str(cell)) for cell in row] for row in rows)
    # File names may contain bytes that are not UTF-8. They are replaced; the name then no longer opens the file.
    return text.getvalue().encode("utf-8", "backslashreplace")


def _escape_formula(cell: str) -> str:
    marked = cell[:1] == "'" and _FORMULA.match(cell.lstrip("'"))
    return f"'{cell}" if marked or (_FORMULA.match(cell) and not _is_number(cell)) else cell


def _unescape_formula(cell: str) -> str:
    marked = cell[:1] == "'" and _FORMULA.match(cell.lstrip("'"))
    return cell[1:] if marked else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
