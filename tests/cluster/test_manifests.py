"""What a corpus consists of: manifests, folders, tar files, URLs; how it is cut into shards."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import pytest

from conftest import tiny_sound
from unmingle.cluster.manifests import corpus_hash, open_files, read_corpus
from unmingle.errors import UnmingleError


def _ids(names: list[object], shard_size: int = 100) -> list[list[str]]:
    return [[item.id for item in shard.items] for shard in read_corpus(list(map(str, names)), shard_size)]


def test_a_folder_is_cut_into_shards_of_a_size(tmp_path: Path) -> None:
    for name in ("a/x.wav", "a/y.wav", "b/x.wav", "c.wav", "d.wav"):
        tiny_sound(tmp_path / "in" / name, 0.1)
    assert _ids([tmp_path / "in"], 2) == [["a/x", "a/y"], ["b/x", "c"], ["d"]]
    assert [shard.name for shard in read_corpus([str(tmp_path / "in")], 2)] == ["00000", "00001", "00002"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "id,path\nfirst,a.wav\n,sub/a.wav\n"),
        ("list.jsonl", '{"id": "first", "path": "a.wav"}\n{"path": "sub/a.wav"}\n'),
    ],
)
def test_manifests_name_files_beside_them(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (shard,) = read_corpus([str(tmp_path / name)], 10)
    assert [(item.id, item.source) for item in shard.items] == [
        ("first", str(tmp_path / "a.wav")),
        ("a", str(tmp_path / "sub/a.wav")),
    ]


def test_a_manifest_is_read_like_any_other_table(tmp_path: Path) -> None:
    """With a byte-order mark, marks before formulas, and rows that lack cells or have more."""
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfpath,id\n'-x.wav\nb.wav,second,more\n")
    (shard,) = read_corpus([str(tmp_path / "list.csv")], 10)
    assert [(item.id, Path(item.source).name) for item in shard.items] == [
        ("-x", "-x.wav"),
        ("second", "b.wav"),
    ]
    (tmp_path / "long.csv").write_text(f"path\n{'a' * 200_000}\n")
    with pytest.raises(UnmingleError, match=r"The manifest .*long\.csv is not a UTF-8 CSV file"):
        read_corpus([str(tmp_path / "long.csv")], 10)


def test_equal_names_get_numbers_but_no_given_id_changes(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,path\n,x/a.wav\na,y/a.wav\n,z/A.wav\n")
    assert _ids([tmp_path / "list.csv"]) == [["a-2", "a", "A-3"]]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("list.csv", "id,file\na,a.wav\n", "lacks the column path"),
        ("list.csv", "id,path\na,a.wav\nA,b.wav\n", "occurs twice"),
        ("list.csv", "id,path\na,\n", "row 2"),
        ("list.jsonl", '{"path": "a.wav"}\nnonsense\n', "row 2"),
        ("list.jsonl", '{"path": 3}\n', "row 1"),
    ],
)
def test_a_bad_manifest_is_told(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UnmingleError, match=told):
        read_corpus([str(tmp_path / name)], 10)


def test_what_is_not_there_is_told() -> None:
    for name, told in [
        ("none.csv", "does not exist"),
        ("*.flac", "No file matches"),
        ("memory://nothing/*.wav", "no audio files"),
        ("nonsense://a/b.wav", "cannot be opened"),
    ]:
        with pytest.raises(UnmingleError, match=told):
            read_corpus([name], 10)


def test_the_hash_tells_ids_and_cuts_but_not_folders(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for name in ("a.wav", "b.wav"):
            tiny_sound(tmp_path / folder / name, 0.1)
    one, two, cut = (
        corpus_hash(read_corpus([str(tmp_path / folder)], size))
        for folder, size in [("one", 2), ("two", 2), ("one", 1)]
    )
    assert one == two != cut


def test_members_of_a_tar_file_come_one_by_one(tmp_path: Path) -> None:
    sound = tiny_sound(tmp_path / "tone.wav", 0.1)
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in ("x/one.wav", "x/one.json", "two.flac", "x/one.flac"):
            tar.add(sound, name)
    (shard,) = read_corpus([str(tmp_path / "in.tar")], 10)
    seen = []
    for item, path in open_files(shard, {"in/two"}, tmp_path / "copies"):
        assert isinstance(path, Path)
        assert path.read_bytes() == sound.read_bytes()
        # One ahead, and no more, lies on the disk.
        assert sum(each.is_file() for each in (tmp_path / "copies").rglob("*")) <= 2
        path.unlink()
        seen.append((item.id, item.source))
    tar_name = str(tmp_path / "in.tar")
    assert seen == [("in/x/one", f"{tar_name}!x/one.wav"), ("in/x/one-2", f"{tar_name}!x/one.flac")]


def test_a_torn_tar_file_gives_what_comes_before_and_an_error(tmp_path: Path) -> None:
    sound = tiny_sound(tmp_path / "tone.wav", 0.5)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.add(sound, "one.wav")
        tar.add(sound, "two.wav")
    (tmp_path / "in.tar").write_bytes(whole.getvalue()[: len(sound.read_bytes()) + 3000])
    (shard,) = read_corpus([str(tmp_path / "in.tar")], 10)
    (first, path), (last, error) = open_files(shard, (), tmp_path / "copies")
    assert (first.id, last.id) == ("in/one", "in")
    assert isinstance(path, Path)
    assert "cannot be read to its end" in str(error)


def test_a_remote_folder_is_listed_and_fetched(tmp_path: Path) -> None:
    sound = tiny_sound(tmp_path / "tone.wav", 0.1)
    store = fsspec.filesystem("memory")
    for name in ("a/x.wav", "b.wav", "notes.txt"):
        store.pipe_file(f"/listed/{name}", sound.read_bytes())
    store.pipe_file("/listed.csv", b"path\nlisted/b.wav\nlisted/none.wav\n")
    assert _ids(["memory://listed"]) == [["a/x", "b"]]
    assert _ids(["memory://listed/*.wav"]) == [["b"]]
    (shard,) = read_corpus(["memory://listed.csv"], 10)
    (_, path), (_, error) = open_files(shard, (), tmp_path / "copies")
    assert isinstance(path, Path)
    assert path.read_bytes() == sound.read_bytes()
    assert str(error) == "memory://listed/none.wav does not exist; check the name."
