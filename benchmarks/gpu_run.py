"""Train on another machine for some minutes: pack the data, train from a checkpoint, bring the weights back.

    python benchmarks/gpu_run.py pack CORPUS OUT [--part-mib 40]         # OUT/data-00.tar, data-01.tar ...
    python benchmarks/gpu_run.py train PARTS RECIPE OUT --minutes 8 [--init-from MODEL] [--resume] [--batch 64]
    python benchmarks/gpu_run.py split FILE OUT [--part-mib 15]          # FILE in parts, with a checksum
    python benchmarks/gpu_run.py join OUT FILE                           # and together again

`pack` takes the train and valid splits of CORPUS (speech.csv, noise.csv) as they are (Opus, FLAC), into archives that
are not larger than what may be carried at once. `train` unpacks the archives that lie in PARTS, and runs `unmingle
train` on the GPU if there is one, else on the processor; with `--batch` the batches are that large and the steps as
many fewer. What it leaves: OUT/model.safetensors (the last one; the average, if the recipe has one), log.csv and, in
parts, the checkpoint, from which a later call goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import torch
import yaml

_MIB = 2**20
_SPLITS = ("train", "valid")


def pack(corpus: Path, output: Path, part_mib: float) -> list[Path]:
    """Archives of the files that training needs, each at most ``part_mib`` large."""
    output.mkdir(parents=True, exist_ok=True)
    files: list[tuple[str, Path | bytes]] = []
    for name in ("speech.csv", "noise.csv"):
        if (corpus / name).is_file():
            files += _listed(corpus, name)
    parts: list[Path] = []
    left: float = 0.0
    waiting: list[tuple[str, Path | bytes]] = []
    for name, content in files:
        # A header of 512 bytes, the content in blocks of 512; and the archive's end.
        size = 1024 + (len(content) if isinstance(content, bytes) else content.stat().st_size)
        if size > left:
            if waiting:
                parts.append(_archive(output / f"data-{len(parts):02d}.tar", waiting))
            waiting, left = [], part_mib * _MIB - 20480
        waiting.append((name, content))
        left -= size
    parts.append(_archive(output / f"data-{len(parts):02d}.tar", waiting))
    return parts


def _listed(corpus: Path, manifest: str) -> list[tuple[str, Path | bytes]]:
    """The manifest's rows of the wanted splits, and their files under names that lie inside the archive."""
    with (corpus / manifest).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if row["split"] in _SPLITS]
        columns = reader.fieldnames or []
    files: list[tuple[str, Path | bytes]] = []
    for number, row in enumerate(rows):
        path = corpus / row["path"]
        row["path"] = f"{Path(manifest).stem}/{number:06d}{path.suffix}"
        files.append((row["path"], path))
    kept = io.StringIO()
    writer = csv.DictWriter(kept, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return [(manifest, kept.getvalue().encode()), *files]


def _archive(path: Path, files: list[tuple[str, Path | bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            if isinstance(content, bytes):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                archive.add(content, arcname=name)
    return path


def larger_batches(recipe: dict[str, object], batch: int) -> dict[str, object]:
    """A recipe whose stages have batches of ``batch``, and as many mixtures as before."""
    stages = recipe["stages"]
    assert isinstance(stages, list)
    for stage in stages:
        before = stage.get("batch_size", 16)
        for name, least in (("steps", 1), ("validate_every", 1), ("decay_steps", 1), ("warmup_steps", 0)):
            if name in stage:
                stage[name] = max(least, round(stage[name] * before / batch))
        stage["batch_size"] = batch
    return recipe


def train(arguments: argparse.Namespace) -> None:
    """Unpack, train for some minutes, and leave model, log and checkpoint."""
    from unmingle.training.recipe import read_recipe

    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    # Always the same folder, because a run goes on with the same data only.
    corpus = Path(arguments.data or output.absolute().with_name(f"{output.name}-corpus"))
    corpus.mkdir(parents=True, exist_ok=True)
    for part in sorted(arguments.parts.glob("data-*.tar")):
        with tarfile.open(part) as archive:
            archive.extractall(corpus, filter="data")
    values = read_recipe(arguments.recipe).model_dump(mode="json")
    values["data"] = [str(corpus)]
    if arguments.batch:
        values = larger_batches(values, arguments.batch)
    recipe, run = output / "recipe.yaml", output / "run"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    command = [sys.executable, "-m", "unmingle", "train", str(recipe), "-o", str(run), "--device", device]
    command += ["--minutes", str(arguments.minutes)]
    if arguments.resume:
        checkpoint = run / "last.checkpoint"
        if not checkpoint.is_file():
            run.mkdir(parents=True, exist_ok=True)
            join(arguments.parts, checkpoint)
        command.append("--resume")
    elif arguments.init_from:
        command += ["--init-from", arguments.init_from]
    subprocess.run(command, check=True)
    shutil.copy(run / "last.safetensors", output / "model.safetensors")
    shutil.copy(run / "log.csv", output / "log.csv")
    split(run / "last.checkpoint", output, 15.0)


def split(file: Path, output: Path, part_mib: float) -> list[Path]:
    """A file in parts of at most ``part_mib``, and its checksum."""
    output.mkdir(parents=True, exist_ok=True)
    content = file.read_bytes()
    size = int(part_mib * _MIB)
    parts = []
    for number, start in enumerate(range(0, max(len(content), 1), size)):
        parts.append(output / f"part-{number:02d}")
        parts[-1].write_bytes(content[start : start + size])
    (output / "parts.sha256").write_text(
        f"{hashlib.sha256(content).hexdigest()} {len(parts)}\n", encoding="ascii"
    )
    return parts


def join(folder: Path, file: Path) -> None:
    """The file of :func:`split` again; a missing or damaged part stops it."""
    checksum, count = (folder / "parts.sha256").read_text(encoding="ascii").split()
    content = b"".join((folder / f"part-{number:02d}").read_bytes() for number in range(int(count)))
    if hashlib.sha256(content).hexdigest() != checksum:
        raise SystemExit(f"The parts in {folder} are not those of one file; bring them again.")
    file.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("corpus", type=Path)
    packing.add_argument("output", type=Path)
    packing.add_argument("--part-mib", type=float, default=40.0)
    training = commands.add_parser("train")
    training.add_argument("parts", type=Path)
    training.add_argument("recipe", type=Path)
    training.add_argument("output", type=Path)
    training.add_argument("--minutes", type=float, required=True)
    training.add_argument("--data", help="Where the archives are unpacked to (default: OUT-corpus).")
    training.add_argument("--init-from")
    training.add_argument(
        "--resume", action="store_true", help="From the checkpoint whose parts lie in PARTS."
    )
    training.add_argument("--batch", type=int)
    for name, first, second in (("split", "file", "output"), ("join", "output", "file")):
        command = commands.add_parser(name)
        command.add_argument(first, type=Path)
        command.add_argument(second, type=Path)
        if name == "split":
            command.add_argument("--part-mib", type=float, default=15.0)
    arguments = parser.parse_args()
    if arguments.command == "pack":
        for part in pack(arguments.corpus, arguments.output, arguments.part_mib):
            print(f"{part} {part.stat().st_size / _MIB:.1f} MiB")
    elif arguments.command == "train":
        train(arguments)
    elif arguments.command == "split":
        print(f"{len(split(arguments.file, arguments.output, arguments.part_mib))} parts")
    else:
        join(arguments.output, arguments.file)


if __name__ == "__main__":
    main()
