"""CSV tables: read whatever a spreadsheet saves as UTF-8, written so that a spreadsheet runs nothing."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from unmingle.errors import UnmingleError

_FORMULA = re.compile(r"[=+\-@\t\r]")
"""What a cell begins with that a spreadsheet takes for a formula."""


def read_table(path: Path, what: str = "") -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file in UTF-8, with or without the mark that Excel puts first (BOM).

    Cells that are missing at the end of a row are empty.

    Args:
        path: of the file.
        what: it is, for the sentence: ``The manifest``.

    Raises:
        UnmingleError: it cannot be read, or is no such table.
    """
    named = f"{what} {path}".strip()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = [{key: _plain(value) for key, value in row.items() if key is not None} for row in reader]
            return [name or "" for name in reader.fieldnames or ()], rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnmingleError(f"{named} is not a UTF-8 CSV file ({error}); save it as one.") from error
    except OSError as error:
        raise UnmingleError(f"{named} cannot be read ({(error.strerror or str(error)).lower()}).") from error


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file's bytes; a cell that a spreadsheet would take for a formula gets a quotation mark before it.

    :func:`read_table` takes the mark off again. Numbers stay as they are.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_harmless(str(cell)) for cell in row] for row in rows)
    # Names of files may hold bytes that are no UTF-8: they are told, but lead to no file.
    return text.getvalue().encode("utf-8", "backslashreplace")


def _harmless(cell: str) -> str:
    marked = cell[:1] == "'" and _FORMULA.match(cell.lstrip("'"))
    return f"'{cell}" if marked or (_FORMULA.match(cell) and not _is_number(cell)) else cell


def _plain(cell: str) -> str:
    marked = cell[:1] == "'" and _FORMULA.match(cell.lstrip("'"))
    return cell[1:] if marked else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
