"""Change one token of the mathematics at a time, and see whether a test notices.

    python tests/mutants/run.py                   # all modules: more than an hour on one core
    python tests/mutants/run.py losses masks      # modules whose path holds one of these words
    python tests/mutants/run.py --sample 100      # a hundred of them, drawn at random
    python tests/mutants/run.py --by-hand         # those of by_hand.txt alone
    python tests/mutants/run.py --list            # what would be tried

Works on a copy of the package and its tests in a temporary folder; yours are left alone. Mutants that a look shows
to change nothing, or nothing but rounding, stand in ``equivalent.txt`` with the reason, and are left out.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import io
import os
import random
import resource
import shutil
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SECONDS = 120
"""Of processor time: a mutant whose tests take longer never ends, and counts as killed."""

EMBEDDINGS = "systems/test_embedding_separator_equations.py"
UPIT = "systems/test_mask_inference_equations.py"
TWO_STAGES = "systems/test_two_stage_equations.py"
DENOISERS = "systems/test_denoiser_equations.py"
WHOLE = [EMBEDDINGS, UPIT, TWO_STAGES, DENOISERS]
"""Whole systems against the papers' equations."""
EXPERTS = [
    "systems/test_denoisers.py",
    "systems/test_gates.py",
    "denoising/test_prelude.py",
    "systems/test_bands.py",
]
TESTS = {
    "losses.py": ["test_losses.py", *WHOLE],
    "masks.py": ["test_stft_and_masks.py", *WHOLE],
    "clustering.py": ["test_clustering.py", "attractors/test_attractors.py", EMBEDDINGS, TWO_STAGES],
    "metrics.py": ["test_metrics_and_permutation.py"],
    "counting.py": ["test_counting.py", "systems/test_systems.py"],
    "frontend.py": ["test_frontend.py", *WHOLE],
    "speaker_encoder.py": ["test_speaker_encoder.py"],
    "speaker_activity.py": ["test_speaker_activity.py"],
    "separation/speaking_alone.py": ["separation/test_speaking_alone.py"],
    "separation/turns.py": ["separation/test_turns.py"],
    "separation/voice_clusters.py": ["separation/test_turns.py", "separation/test_voice_clusters.py"],
    "separation/cleaned_energy.py": ["separation/test_cleaned_energy.py"],
    "attractors/anchored.py": ["attractors/test_attractors.py", EMBEDDINGS, TWO_STAGES],
    "attractors/clustered.py": ["attractors/test_attractors.py", EMBEDDINGS, TWO_STAGES],
    "attractors/fixed.py": [
        "attractors/test_fixed_sets.py",
        "attractors/test_attractors.py",
        EMBEDDINGS,
        TWO_STAGES,
    ],
    "attractors/formation.py": [
        "attractors/test_attractors.py",
        "attractors/test_running.py",
        EMBEDDINGS,
        TWO_STAGES,
    ],
    "attractors/running.py": ["attractors/test_running.py", "systems/test_embedding_steps.py"],
    "networks/refiners.py": [TWO_STAGES, "networks/test_networks.py"],
    "networks/blstm.py": ["networks/test_networks.py", "networks/test_dropout.py", *WHOLE],
    "systems/objectives.py": [UPIT, *WHOLE, "systems/test_systems.py"],
    "systems/embedding_separator.py": [
        "systems/test_trainable.py",
        "systems/test_embedding_steps.py",
        EMBEDDINGS,
        TWO_STAGES,
        "systems/test_systems.py",
    ],
    "systems/mask_inference.py": [UPIT, TWO_STAGES, "systems/test_systems.py"],
    "systems/two_stage.py": [TWO_STAGES, "systems/test_systems.py"],
    "systems/base.py": [
        *WHOLE,
        "systems/test_systems.py",
        "test_counting.py",
        "systems/test_end_of_audio.py",
    ],
    "systems/oracle.py": ["systems/test_systems.py", "test_stft_and_masks.py"],
    "systems/denoiser.py": [DENOISERS, *EXPERTS],
    "systems/embedding_steps.py": ["systems/test_embedding_steps.py"],
    "systems/local_experts.py": [DENOISERS, *EXPERTS],
    "systems/gate_base.py": ["systems/test_gates.py", *EXPERTS],
    "systems/gates.py": ["systems/test_gates.py", *EXPERTS],
}
"""The modules, below ``src/unmingle``, and the test files that hold them."""

SWAPS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "**": "*", "<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=",
    "|": "&", "&": "|", "~": "", "and": "or", "or": "and", "True": "False", "False": "True", "not": "",
    "if": "if not", "square": "abs", "sqrt": "abs", "sum": "mean", "mean": "sum", "amax": "amin",
    "amin": "amax", "argmax": "argmin", "argmin": "argmax", "max": "min", "min": "max", "log10": "log",
    "log": "log10", "exp": "abs", "sigmoid": "tanh", "relu": "abs", "softmax": "log_softmax",
    "clamp_min": "clamp_max", "clamp_max": "clamp_min", "std": "mean",
    "ideal_binary_mask": "ideal_ratio_mask", "ideal_ratio_mask": "ideal_binary_mask",
    "hard_masks": "softmax_masks", "sigmoid_masks": "softmax_masks", "softmax_masks": "sigmoid_masks",
    "pairwise_mask_error": "pairwise_magnitude_error",
}  # fmt: skip
"""What a token becomes. Numbers grow: whole ones by one, others by half."""

ONCE = (
    "torch",
    "pytest",
    "hypothesis.strategies",
    "pydantic",
    "soundfile",
    "soxr",
    "yaml",
    "safetensors.torch",
    "typer",
)
"""Loaded before the processes part."""

LEFT_OUT = ("working_bytes", "multiply_accumulates")
"""Functions that estimate costs, not part of the mathematics."""


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    before: str
    after: str
    source: str
    """Of the whole module, changed."""

    @property
    def name(self) -> str:
        return f"{self.module}: {self.before.strip()}  ->  {self.after.strip()}"


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Every change of one token, and those of ``by_hand.txt``."""
    lines, skipped = source.splitlines(keepends=True), _untouched(ast.parse(source))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.OP, tokenize.NAME, tokenize.NUMBER):
            continue
        (row, start), (_, stop) = token.start, token.end
        line = lines[row - 1]
        change = _changed(token, line[:start])
        if change is None or row in skipped:
            continue
        after = line[:start] + change + line[stop:]
        whole = "".join([*lines[: row - 1], after, *lines[row:]])
        try:
            ast.parse(whole)
        except SyntaxError:
            continue
        yield Mutant(module, row, line, after, whole)
    yield from by_hand(module, source)


def by_hand(module: str, source: str) -> Iterator[Mutant]:
    """The changes that ``by_hand.txt`` names."""
    for entry in _entries("by_hand.txt"):
        name, before, after = (part.strip() for part in entry.split(" :: "))
        if name == module:
            if source.count(before) != 1:
                raise SystemExit(f"by_hand.txt: {before!r} is not in {module} exactly once")
            row = source[: source.index(before)].count("\n") + 1
            yield Mutant(module, row, before, after, source.replace(before, after))


def _changed(token: tokenize.TokenInfo, before: str) -> str | None:
    if token.type == tokenize.NUMBER:
        # Tiny numbers keep divisions finite; the numbers of dimensions only crash.
        if before.endswith(("dim=", "dim1=", "dim2=", "dim=(", "squeeze(", "split(", "transpose(")):
            return None
        value = ast.literal_eval(token.string)
        if isinstance(value, int):
            return str(value + 1)
        return None if abs(value) < 1e-6 else repr(1.5 * value)
    if before.endswith("strict="):
        return None
    if token.string == "-" and before.endswith(("dim=", "[", "[..., ", "dim=(")):
        return None
    return SWAPS.get(token.string)


def _untouched(tree: ast.Module) -> set[int]:
    """Lines of imports, signatures, errors, class-level declarations and the functions left out."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0) or 0
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Raise | ast.Assert):
            skipped |= set(range(first, last + 1))
        elif isinstance(node, ast.FunctionDef):
            checks = any("validator" in ast.unparse(each) for each in node.decorator_list)
            whole = node.name in LEFT_OUT or checks
            skipped |= set(range(first, last + 1 if whole else node.body[0].lineno))
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.AnnAssign | ast.Assign):
                    skipped |= set(range(each.lineno, (each.end_lineno or 0) + 1))
    for each in tree.body:  # Types and constants that tests name by value.
        if isinstance(each, ast.Assign) and "Literal" in ast.unparse(each.value):
            skipped |= set(range(each.lineno, (each.end_lineno or 0) + 1))
    return skipped


def _entries(name: str) -> list[str]:
    text = (HERE / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def survives(mutant: Mutant, work: Path) -> bool:
    """Run the module's tests on the changed package, in a process of its own."""
    target = work / "src" / "unmingle" / mutant.module
    original = target.read_text(encoding="utf-8")
    target.write_text(mutant.source, encoding="utf-8")
    for stale in (target.parent / "__pycache__").glob(f"{target.stem}.*"):
        stale.unlink()
    passed = passes(mutant.module, work)
    target.write_text(original, encoding="utf-8")
    return passed


def passes(module: str, work: Path, *, keep_compiled: bool = False) -> bool:
    """Whether the tests of a module pass on the copy as it is."""
    child = os.fork()
    if not child:
        sys.dont_write_bytecode = not keep_compiled
        _test(work, TESTS[module])
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def _test(work: Path, files: list[str]) -> None:
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    os.chdir(work)
    os.environ["PYTHONPATH"] = str(work / "src")
    sys.path[:0] = [str(work / "src"), str(work / "tests")]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-c", str(work / "pyproject.toml")]
    os._exit(int(pytest.main([*options, *(str(work / "tests" / name) for name in files)])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("words", nargs="*", help="parts of module paths (default: all modules)")
    parser.add_argument("--list", action="store_true", help="only say what would be tried")
    parser.add_argument("--by-hand", action="store_true", help="only those of by_hand.txt")
    parser.add_argument("--sample", type=int, metavar="N", help="only N of them, drawn at random (seed 0)")
    arguments = parser.parse_args()
    tried = []
    equivalent = {entry.split(" # ")[0].strip() for entry in _entries("equivalent.txt")}
    for module in TESTS:
        if not arguments.words or any(word in module for word in arguments.words):
            source = (ROOT / "src" / "unmingle" / module).read_text(encoding="utf-8")
            found = mutants(module, source) if not arguments.by_hand else by_hand(module, source)
            tried += [mutant for mutant in found if mutant.name not in equivalent]
    if arguments.sample is not None:
        tried = sorted(random.Random(0).sample(tried, arguments.sample), key=lambda mutant: mutant.module)
    if arguments.list:
        print("\n".join(mutant.name for mutant in tried))
        return
    alive = try_all(tried)
    killed = len(tried) - len(alive)
    print(f"{killed} of {len(tried)} killed ({100 * killed / max(len(tried), 1):.1f} %)")


def try_all(tried: list[Mutant]) -> list[Mutant]:
    """Those that survive; each is printed as it is found."""
    for name in ONCE:
        importlib.import_module(name)
    alive, sound = [], set()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, work / name, ignore=ignore)
        for name in ("examples", "recipes", "docs", "pyproject.toml"):
            (work / name).symlink_to(ROOT / name)
        for number, mutant in enumerate(tried, start=1):
            if mutant.module not in sound and not passes(mutant.module, work, keep_compiled=True):
                raise SystemExit(f"The tests of {mutant.module} fail without any change; mend them first.")
            sound.add(mutant.module)
            if survives(mutant, work):
                alive.append(mutant)
                print(f"survives ({number} tried), line {mutant.line}: {mutant.name}", flush=True)
    return alive


if __name__ == "__main__":
    main()
