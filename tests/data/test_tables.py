"""CSV tables: files of spreadsheet programs are read, and written files run no formulas in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import tiny_sound
from unmingle.data.cache import decode
from unmingle.data.corpora import read_corpora, read_noise
from unmingle.data.mixture_folders import read_mixture_folder
from unmingle.data.mixture_writing import MixtureFolderConfig, write_mixture_folder
from unmingle.data.tables import read_table, write_table
from unmingle.errors import UnmingleError
from unmingle.shares import WHOLE
from unmingle.temporary import exclusive_access, shared_access


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])), min_size=1, max_size=4
    )
)
def test_written_tables_are_read_back(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    columns = [f"c{number}" for number in range(len(cells))]
    path.write_bytes(write_table([*columns, "end"], [[*cells, "x"]]))
    there, rows = read_table(path)
    assert there == [*columns, "end"]
    assert list(rows[0].values()) == [*cells, "x"]


def test_a_spreadsheet_runs_no_formula_and_numbers_stay(tmp_path: Path) -> None:
    cells = ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "-3.25", "+5", "plain", "'=x"]
    (tmp_path / "a.csv").write_bytes(write_table(["a"], [[cell] for cell in cells]))
    lines = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert lines == ["'=1+1", "'+x", "'-x", "'@SUM(A1)", "'\tx", "-3.25", "+5", "plain", "''=x"]
    assert [row["a"] for row in read_table(tmp_path / "a.csv")[1]] == cells


def _corpus(folder: Path, speakers: int = 4) -> Path:
    for number in range(speakers):
        tiny_sound(folder / f"s{number}" / "0.wav")
    rows = [f"s{number}/0.wav,s{number},train" for number in range(speakers)]
    (folder / "speech.csv").write_text("\n".join(["path,speaker,split", *rows]) + "\n")
    return folder


def test_excels_byte_order_mark_is_not_part_of_a_column(tmp_path: Path) -> None:
    manifest = _corpus(tmp_path / "corpus") / "speech.csv"
    plain = read_corpora([manifest])
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes())
    assert read_corpora([manifest]) == plain
    config = MixtureFolderConfig(corpora=[str(manifest)], count=2)
    write_mixture_folder(tmp_path / "mixtures", config)
    listed = tmp_path / "mixtures" / "mixtures.csv"
    details = [item.details for item in read_mixture_folder(tmp_path / "mixtures")]
    assert details[0]["speaker_1"].startswith("s")
    listed.write_bytes(b"\xef\xbb\xbf" + listed.read_bytes())
    assert [item.details for item in read_mixture_folder(tmp_path / "mixtures")] == details


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("s0/0.wav,s0,dev", "split 'dev'"),
        ("s0/0.wav,s0,Train", "split 'Train'"),
        ('"s0/0\n.wav",s0,train', "line break"),
        ("s0/0\0.wav,s0,train", "CSV|line break"),
        (",s0,train", "without path"),
    ],
)
def test_malformed_rows_are_reported(tmp_path: Path, row: str, word: str) -> None:
    (tmp_path / "speech.csv").write_text(f"path,speaker,split\n{row}\n")
    with pytest.raises(UnmingleError, match=word) as caught:
        read_corpora([tmp_path])
    assert "\n" not in str(caught.value)


def test_a_listed_file_that_is_missing_is_named(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus")
    (corpus / "s2" / "0.wav").unlink()
    utterances = read_corpora([corpus])
    with pytest.raises(UnmingleError, match=r"s2/0\.wav is in the list of its corpus but does not exist"):
        decode(utterances, 8000, tmp_path / "cache")
    with pytest.raises(UnmingleError, match=r"s2/0\.wav is in the list of its corpus but does not exist"):
        write_mixture_folder(tmp_path / "out", MixtureFolderConfig(corpora=[str(corpus)], count=1, seed=1))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_hidden_files_are_not_recordings(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus")
    (corpus / "speech.csv").unlink()
    expected = len(read_corpora([corpus]))
    for folder in (corpus, *corpus.iterdir()):
        if folder.is_dir():
            (folder / "._0.wav").write_bytes(b"\0\5\x16\7")
            (folder / ".DS_Store").write_bytes(b"x")
    (corpus / ".Trashes").mkdir()
    tiny_sound(corpus / ".Trashes" / "0.wav")
    assert len(read_corpora([corpus])) == expected
    assert len(read_noise([corpus])) == expected


def test_two_mixers_do_not_write_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmingle.temporary._PATIENCE_SECONDS", 0.1)
    corpus = _corpus(tmp_path / "corpus")
    config = MixtureFolderConfig(corpora=[str(corpus)], count=1)
    (tmp_path / ".out.partial" / "rows").mkdir(parents=True)  # Empty folders are removed.
    refused = pytest.raises(UnmingleError, match="Another process is mixing")
    with exclusive_access(tmp_path / ".out.partial", "mixing"), refused:
        write_mixture_folder(tmp_path / "out", config)
    with exclusive_access(tmp_path / ".out.partial", "mixing"), refused:
        write_mixture_folder(tmp_path / "out", config, share=WHOLE)
    with shared_access(tmp_path / ".out.partial", "mixing"), refused:
        write_mixture_folder(tmp_path / "out", config)
    # Another share is at work; it completes the folder.
    with shared_access(tmp_path / ".out.partial", "mixing"):
        assert not write_mixture_folder(tmp_path / "out", config, share=WHOLE)
    write_mixture_folder(tmp_path / "out", config)
    assert len(read_mixture_folder(tmp_path / "out")) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "mix", "s1", "s2", "mixtures.csv", "recipe.json", "README.md"
    }  # fmt: skip


def test_an_unwritable_cache_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, no folder")
    with pytest.raises(UnmingleError, match="XDG_CACHE_HOME"):
        decode(read_corpora([_corpus(tmp_path / "corpus")]), 8000, tmp_path / "cache")
