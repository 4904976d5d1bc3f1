from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from conftest import TINY_CNN, tiny_system
from unmingle.errors import UnmingleError
from unmingle.models import (
    ModelFacts,
    load_system,
    model_card,
    model_names,
    read_facts,
    save_system,
)
from unmingle.systems import EmbeddingSeparator, LocalExpertsConfig


def test_a_saved_system_separates_as_before(tmp_path: Path) -> None:
    system = tiny_system()
    save_system(system, tmp_path / "m.safetensors", ModelFacts(data="noise", audio_hours=1.5), half=False)
    again = load_system(tmp_path / "m.safetensors")
    mixture = torch.randn(1, 4000)
    torch.testing.assert_close(again.separate(mixture).sources, system.separate(mixture).sources)
    config, facts = read_facts(tmp_path / "m.safetensors")
    assert config == system.config
    assert (facts.data, facts.audio_hours) == ("noise", 1.5)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_half_precision_costs_half_the_space_and_little_else(tmp_path: Path) -> None:
    system = tiny_system(network={"kind": "blstm", "layers": 1, "hidden_size": 64})
    save_system(system, tmp_path / "half.safetensors", ModelFacts())
    save_system(system, tmp_path / "full.safetensors", ModelFacts(), half=False)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.55 * sizes[1]
    mixture = torch.randn(1, 4000)
    expected = system.separate(mixture).sources
    torch.testing.assert_close(
        load_system(tmp_path / "half.safetensors").separate(mixture).sources, expected, atol=0.02, rtol=0
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999))
def test_a_file_cut_anywhere_is_refused_in_one_sentence(tiny_model: Path, tmp_path: Path, cut: float) -> None:
    content = tiny_model.read_bytes()
    damaged = tmp_path / "cut.safetensors"
    damaged.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(UnmingleError) as caught:
        load_system(damaged)
    assert "\n" not in str(caught.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_anything_else_is_refused_too(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "noise.safetensors").write_bytes(content)
    with pytest.raises(UnmingleError):
        load_system(tmp_path / "noise.safetensors")


def _with_metadata(model: Path, target: Path, **changes: str) -> Path:
    config, facts = read_facts(model)
    metadata = {"format_version": "3", "config": config.model_dump_json(), "facts": facts.model_dump_json()}
    save_file(load_file(model), target, metadata=metadata | changes)
    return target


def test_files_of_format_2_are_read_in_the_words_of_format_3(tiny_model: Path, tmp_path: Path) -> None:
    config, _ = read_facts(tiny_model)
    values = config.model_dump()
    old = {
        {"speakers": "talkers", "fewest_speakers": "fewest_talkers"}.get(k, k): v for k, v in values.items()
    }
    path = _with_metadata(
        tiny_model, tmp_path / "old.safetensors", format_version="2", config=json.dumps(old)
    )
    assert read_facts(path)[0] == config
    experts = LocalExpertsConfig(speakers=1, sharpness=3.5)
    values = experts.model_dump()
    values["hardness"], values["talkers"] = values.pop("sharpness"), values.pop("speakers")
    path = _with_metadata(
        tiny_model, tmp_path / "old.safetensors", format_version="2", config=json.dumps(values)
    )
    assert read_facts(path)[0] == experts


def _blstm(**network: int) -> str:
    return json.dumps({"kind": "embedding_separator", "network": {"kind": "blstm", **network}})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"format_version": "99"}, "release of unmingle that wrote it"),
        ({"format_version": "1"}, "release of unmingle that wrote it"),
        ({"config": "{}"}, "cannot read"),
        ({"config": '{"kind": "embedding_separator"}'}, "not fit"),
        ({"config": "[]"}, "cannot read"),
        ({"config": '{"kind": "something"}'}, "cannot read"),
        ({"config": "no json"}, "cannot read"),
        ({"config": _blstm(hidden_size=8192, layers=32)}, "not fit"),
        ({"config": _blstm(hidden_size=10**9)}, "cannot read"),
        ({"config": "[1]"}, "cannot read"),
        ({"config": "5"}, "cannot read"),
        ({"config": '{"kind":' * 100_000}, "cannot read"),
    ],
)
def test_hostile_metadata_is_refused(
    tiny_model: Path, tmp_path: Path, changes: dict[str, str], word: str
) -> None:
    with pytest.raises(UnmingleError, match=word):
        load_system(_with_metadata(tiny_model, tmp_path / "hostile.safetensors", **changes))


def test_missing_extra_or_not_finite_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    config, _ = read_facts(tiny_model)
    metadata = {"format_version": "3", "config": config.model_dump_json()}
    state = load_file(tiny_model)
    name = "network.linear.weight"
    for change in (
        {},
        {key: value for key, value in state.items() if key != name},
        state | {"surprise": torch.zeros(3)},
        state | {name: torch.full_like(state[name], torch.nan)},
    ):
        save_file(change, tmp_path / "bad.safetensors", metadata=metadata)
        with pytest.raises(UnmingleError):
            load_system(tmp_path / "bad.safetensors")


def test_weights_without_config_are_not_a_model(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(UnmingleError, match="no config of unmingle"):
        load_system(tmp_path / "plain.safetensors")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnmingleError, match="adanet-2speakers-8khz"):
        load_system("nonsense")


def test_every_model_of_the_package_loads_and_has_a_card() -> None:
    assert model_names()
    for name in model_names():
        assert load_system(name).sample_rate > 0
        assert name in model_card(name)


def test_what_needs_no_training_can_be_changed(tiny_model: Path) -> None:
    changed = load_system(tiny_model, changes={"formation": "kmeans", "weight.threshold": 0.5})
    assert isinstance(changed, EmbeddingSeparator)
    assert (changed.config.formation, changed.config.weight.threshold) == ("kmeans", 0.5)
    embedded = changed.embed(torch.ones(1, 4000))[1]
    same = load_system(tiny_model)
    assert isinstance(same, EmbeddingSeparator)
    torch.testing.assert_close(same.embed(torch.ones(1, 4000))[1], embedded)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"formation": "fixed"}, "no weights"),
        ({"formation": "magic"}, "cannot have formation=magic"),
        ({"learned_scale": True}, "no weights"),
        ({"nothing": 1}, "no 'nothing'"),
        ({"weight.nothing": 1}, "no 'weight.nothing'"),
        ({"dimension.x.y": 1}, "no 'dimension.x.y'"),
    ],
)
def test_changes_that_need_training_are_refused(
    tiny_model: Path, changes: dict[str, object], word: str
) -> None:
    with pytest.raises(UnmingleError, match=word):
        load_system(tiny_model, changes=changes)


def test_counters_and_statistics_survive_half_precision(tmp_path: Path) -> None:
    """A batch norm that has seen more batches than half precision can count, and loud statistics."""
    system = tiny_system(network=TINY_CNN)
    norm = system.network.norms[0]  # type: ignore[union-attr, index]
    norm.num_batches_tracked.fill_(150_000)
    norm.running_var.fill_(1e5)
    save_system(system, tmp_path / "m.safetensors", ModelFacts())
    state = load_system(tmp_path / "m.safetensors").state_dict()
    assert int(state["network.norms.0.num_batches_tracked"]) == 150_000
    torch.testing.assert_close(state["network.norms.0.running_var"], norm.running_var)
