"""Recipes inherit; those of the papers say what the papers say; bad ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from conftest import tiny_system
from training_runs import FOLDER, RECIPES, recipe_id
from unmingle.errors import UnmingleError
from unmingle.models import ModelFacts, save_system
from unmingle.networks import BlstmConfig
from unmingle.systems import (
    DenoiserConfig,
    DenoisingConfig,
    EmbeddingSeparatorConfig,
    build_system,
)
from unmingle.temporary import Replacement
from unmingle.training.recipe import Recipe, read_recipe
from unmingle.training.run_folder import LogRow, Progress, RunFolder

PAPERS = {"isik2016", "ledger", "luo2018", "mobin2018", "sivaraman2020"}
PAPER_ROWS = [path for path in RECIPES if path.parent.name in PAPERS]


def test_names_follow_the_files_and_are_unique() -> None:
    names = {path: read_recipe(path).name for path in RECIPES}
    assert len(set(names.values())) == len(RECIPES)
    for path, name in names.items():
        assert name == "-".join(path.relative_to(FOLDER).with_suffix("").parts)


@pytest.mark.parametrize("path", PAPER_ROWS, ids=recipe_id)
def test_every_row_has_a_small_variant_of_the_same_shape(path: Path) -> None:
    full, small = read_recipe(path), read_recipe(path, small=True)
    assert type(small.system) is type(full.system)
    assert small.name == f"{full.name}-small"

    def size(recipe: Recipe) -> int:
        with torch.device("meta"):
            return build_system(recipe.system).parameter_count()

    assert size(small) <= size(full)

    def audio(recipe: Recipe) -> float:
        return sum(stage.steps * stage.batch_size * stage.seconds for stage in recipe.stages) / 3600

    assert audio(small) < 60  # hours of mixtures
    assert audio(small) < audio(full) / 5


PARAMETERS = {
    "luo2018/table2-anchors6-curriculum": 9_079_500,
    "mobin2018/table2-dilated-cnn": 1_650_836,
    "luo2018/table3-upit-blstm": 46_387_970,
}


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_systems_of_the_papers_have_their_size(name: str, expected: int) -> None:
    with torch.device("meta"):
        assert build_system(read_recipe(FOLDER / f"{name}.yaml").system).parameter_count() == expected


def test_recipes_inherit(tmp_path: Path) -> None:
    stages = [{"seconds": 1.0, "steps": 5}]
    system = {"kind": "embedding_separator", "network": {"kind": "blstm", "layers": 2}}
    small = {"stages": [{"seconds": 1.0, "steps": 1}]}
    base = {"name": "b", "system": system, "stages": stages, "small": small}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "other.yaml").write_text("seed: 5\nname: o\n")
    (tmp_path / "child.yaml").write_text(
        "base: [base.yaml, other.yaml]\nname: child\nsystem: {network: {hidden_size: 7}}\n"
    )
    recipe = read_recipe(tmp_path / "child.yaml")
    assert isinstance(recipe.system, EmbeddingSeparatorConfig)
    network = recipe.system.network
    assert isinstance(network, BlstmConfig)
    assert (recipe.name, recipe.seed, network.layers, network.hidden_size) == ("child", 5, 2, 7)
    assert read_recipe(tmp_path / "child.yaml", small=True).stages[0].steps == 1


def test_a_part_without_a_kind_is_inherited_by_every_kind(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("system: {stft: {window_length: 512, hop: 256}, bands_above: 750}\n")
    (tmp_path / "child.yaml").write_text(
        "base: data.yaml\nsystem: {kind: denoiser, network: {hidden_size: 8}}\n"
        "mixing: {speakers: 1, noise: {}}\nstages: [{seconds: 1, steps: 1}]\n"
    )
    read = read_recipe(tmp_path / "child.yaml").system
    assert isinstance(read, DenoiserConfig)
    assert (read.stft.window_length, read.bands_above, read.network.hidden_size) == (512, 750.0, 8)


def test_the_next_denoiser_has_short_windows_and_bands() -> None:
    for path in [path for path in RECIPES if path.parent.name == "denoiser-32ms-16khz"]:
        system = read_recipe(path).system
        assert isinstance(system, DenoisingConfig)
        assert (system.stft.window_length, system.bands_above) == (512, 750.0), path
        expected = "perceptual" if path.stem in ("4-perceptual", "5-gate") else "si_sdr_and_spectrum"
        assert system.objective == expected, path


def test_another_kind_inherits_nothing(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "name: b\nsystem: {kind: embedding_separator, network: {kind: dilated_cnn, channels: 4}}\n"
        "stages: [{seconds: 1, steps: 1}]\n"
    )
    (tmp_path / "child.yaml").write_text("base: base.yaml\nsystem: {network: {kind: blstm, layers: 1}}\n")
    recipe = read_recipe(tmp_path / "child.yaml")
    assert isinstance(recipe.system, EmbeddingSeparatorConfig)
    assert recipe.system.network == BlstmConfig(layers=1)
    with pytest.raises(UnmingleError, match="no small variant"):
        read_recipe(tmp_path / "child.yaml", small=True)


_ORACLE = "training_formation: oracle, formation: kmeans"
_X = "name: x\nsystem: {kind: embedding_separator, "


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f"{_X}network: {{kind: blstm, layers: none}}}}\nstages: [{{seconds: 1, steps: 1}}]", "layers"),
        (f"{_X}}}\nstages: []", "stages"),
        (f"{_X}}}\nstages: [{{seconds: 1, steps: 1, epochs: 3}}]", "epochs"),
        (f"{_X}stft: {{hop: 200}}}}\nstages: [{{seconds: 1, steps: 1}}]", "hop"),
        (f"{_X}}}\nmixing: {{speakers: 3}}\nstages: [{{seconds: 1, steps: 1}}]", "speakers 3"),
        (f"{_X}}}\nstages: [{{seconds: 1, steps: 1, part: second}}]", "part"),
        (f"{_X}training_formation: oracle}}\nstages: [{{seconds: 1, steps: 1}}]", "which trains it"),
        (
            f"{_X}mask: assignment, {_ORACLE}}}\nstages: [{{seconds: 1, steps: 1}}]",
            "gradient",
        ),
        (f"{_X}}}\nstages: [{{seconds: 1, steps: 1, fewest_speakers: 3}}]", "fewest_speakers"),
        (f"{_X}formation: oracle}}\nstages: [{{seconds: 1, steps: 1}}]", "oracle"),
        (f"seed: -1\n{_X}}}\nstages: [{{seconds: 1, steps: 1}}]", "seed"),
        ("[1, 2]", "mapping"),
        ("a: [", "YAML"),
        ("base: bad.yaml", "itself"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UnmingleError, match=word):
        read_recipe(tmp_path / "bad.yaml")


def _row(name: str) -> Recipe:
    return read_recipe(FOLDER / f"{name}.yaml")


def test_table_5_of_luo_chooses_three_of_six_anchors_and_has_a_row_for_every_system() -> None:
    for small in (False, True):
        recipe = read_recipe(FOLDER / "luo2018/table5-adanet.yaml", small=small)
        system = recipe.system
        assert isinstance(system, EmbeddingSeparatorConfig)
        assert (system.anchors, system.speakers, system.fewest_speakers) == (6, 3, 2)
    for name in ("danet", "adanet", "upit-blstm", "upit-blstm-st"):
        recipe = _row(f"luo2018/table5-{name}")
        assert [stage.fewest_speakers for stage in recipe.stages[:2]] == [3, 3]
        assert recipe.mixing.fewest_speakers == 2
        assert all(stage.keeps_best for stage in recipe.stages)


def test_isik_stops_early_and_mixes_as_the_text_says() -> None:
    for path in sorted((FOLDER / "isik2016").glob("*.yaml")):
        recipe = read_recipe(path)
        assert recipe.mixing.snr == (0, 10), path
        assert recipe.statistics_minutes == 10, path
        assert all(stage.patience == 30 and stage.keeps_best for stage in recipe.stages), path
    both = _row("isik2016/table5-trained-on-both")
    assert [stage.most_speakers for stage in both.stages] == [2, 2, None]
    assert both.stages[:2] == [
        stage.model_copy(update={"most_speakers": 2}) for stage in _row("isik2016/table5-trained-on-2").stages
    ]


def test_mobins_danet_is_trained_as_the_paper_says() -> None:
    recipe = _row("mobin2018/table2-danet")
    with torch.device("meta"):
        assert build_system(recipe.system).parameter_count() == pytest.approx(23.1e6, rel=0.01)
    assert recipe.optimizer == "rmsprop"
    (stage,) = recipe.stages
    assert (stage.learning_rate, stage.schedule, stage.decay_factor, stage.decay_steps) == (
        1e-3,
        "exponential",
        0.95,
        2000,
    )


def test_sivaramans_rows_hear_magnitudes() -> None:
    for path in sorted((FOLDER / "sivaraman2020").glob("figure*.yaml")):
        stft = read_recipe(path).system.stft
        assert (stft.feature, stft.level, stft.window_length, stft.hop) == ("magnitude", "running", 1024, 256)


_GOOD = {
    "system": {"kind": "embedding_separator", "network": {"kind": "blstm", "layers": 1, "hidden_size": 8}},
    "stages": [{"seconds": 1.0, "steps": 10}],
}


def _recipe(folder: Path, **changes: object) -> Path:
    (folder / "r.yaml").write_text(yaml.safe_dump(_GOOD | changes))
    return folder / "r.yaml"


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".hidden", "", "a\\b", "a\nb", "x" * 200])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnmingleError, match="name"):
        read_recipe(_recipe(tmp_path, name=name))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2**40}, {"stages": [{"seconds": 1e9, "steps": 10}]}, {"stages": [{"seconds": 1.0, "steps": 10**30}]},
        {"stages": [{"seconds": float("inf"), "steps": 1}]}, {"mixing": {"snr": [0.0, float("inf")]}},
        {"mixing": {"snr": [0.0, 1e6]}}, {"mixing": {"moving_level": float("nan")}},
        {"stages": [{"seconds": 1.0, "steps": 10, "batch_size": 10**9}]}, {"validation": {"count": 10**9}},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_have_bounds(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UnmingleError, match="bad value") as caught:
        read_recipe(_recipe(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_system_must_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_recipe(_recipe(tmp_path))
    monkeypatch.setattr("unmingle.training.recipe.available_memory", lambda: 10_000)
    with pytest.raises(UnmingleError, match="million parameters"):
        read_recipe(_recipe(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["a: 2026-99-99", "[" * 5000, "? {a: 1}\n: 2", "a: &a [*a]", "- 1", "1: 2",
     "a: !!python/object:os.system x", "\x00",
     "a: !!int x", "a: !!binary x", "<<: 3", "\t", "a: 'b", ""],
    ids=repr,
)  # fmt: skip
def test_every_kind_of_bad_yaml_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UnmingleError, match=r"r\.yaml") as caught:
        read_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


def test_bases_are_read_once_each(tmp_path: Path) -> None:
    _recipe(tmp_path).rename(tmp_path / "0.yaml")
    for number in range(1, 27):
        (tmp_path / f"{number}.yaml").write_text(f"base: [{number - 1}.yaml, {number - 1}.yaml]\n")
    assert read_recipe(tmp_path / "26.yaml").stages[0].steps == 10
    laughs = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "laughs.yaml").write_text("\n".join(laughs))
    with pytest.raises(UnmingleError, match="values"):
        read_recipe(tmp_path / "laughs.yaml")
    (tmp_path / "loop.yaml").write_text("base: loop.yaml")
    with pytest.raises(UnmingleError, match="inherits from itself"):
        read_recipe(tmp_path / "loop.yaml")


def test_only_a_run_is_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create(read_recipe(_recipe(tmp_path)))
    (run.path / "thesis.tex").write_text("years of work")
    with pytest.raises(UnmingleError, match="files that no run writes"):
        run.clear()
    assert (run.path / "thesis.tex").exists()
    (run.path / "thesis.tex").unlink()
    run.clear()
    assert not list(run.path.iterdir())


def test_a_row_that_a_killed_run_left_is_not_doubled(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for step in (10, 20, 30, 20):  # Killed after 30, gone on with from 10.
        run.add_row(LogRow(1, step, 0.1, 1.0, 1e-3, float(step), 0.0, 0.0, 1.0))
    lines = run.log.read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["step", "10", "20"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Replacement, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    run = RunFolder(tmp_path / "run")
    run.save({"x": torch.zeros(3)}, Progress(step=1))
    monkeypatch.setattr(Replacement, "write", full)
    with pytest.raises(UnmingleError, match="no space left"):
        run.save({"x": torch.ones(3)}, Progress(step=2))
    with pytest.raises(UnmingleError, match="no space left"):
        save_system(tiny_system(), tmp_path / "m.safetensors", ModelFacts())
    assert run.load()[1].step == 1
    assert [path.name for path in run.path.iterdir()] == ["last.checkpoint"]
    assert not (tmp_path / "m.safetensors").exists()


def test_a_run_goes_on_with_what_it_was_begun_with(tmp_path: Path) -> None:
    recipe = read_recipe(_recipe(tmp_path, name="r", data=["corpus"]))
    run = RunFolder(tmp_path / "run")
    run.check_same(recipe)  # Nothing is known of it.
    run.create(recipe)
    run.check_same(recipe.model_copy(update={"data": [str(Path("corpus").absolute())]}))
    stages = [stage.model_copy(update={"batch_size": 3}) for stage in recipe.stages]
    for changes, word in (
        ({"data": ["other"]}, "--data corpus"),
        ({"noise_data": ["noise"]}, "--noise"),
        ({"stages": stages}, "batch_size of 16 in stage 1, the recipe has 3"),
    ):
        with pytest.raises(UnmingleError, match=word):
            run.check_same(recipe.model_copy(update=changes))
    run.create(recipe.model_copy(update={"name": "r-small"}))
    with pytest.raises(UnmingleError, match="add --small"):
        run.check_same(recipe)
