"""Write a system as ONNX graphs, for programs that have no PyTorch; docs/onnx.md describes the folder.

The short-time Fourier transform and its inverse stay outside the graphs. Graphs take magnitudes and give masks, for
any number of frames. Which graphs there are depends on the kind of system, see :mod:`unmingle.graphs`.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unmingle.counting import ENERGY_RANGE_DB
from unmingle.errors import UnmingleError
from unmingle.exported_files import FORMAT_VERSION, MODEL_JSON
from unmingle.graphs import GRAPHS, Graph, graphs_of
from unmingle.models import find_weights, load_system, read_facts
from unmingle.systems import (
    DenoisingSystem,
    EmbeddingSeparator,
    LocalExperts,
    MaskingSystem,
    System,
    TwoStage,
)
from unmingle.systems.gates import SpecialistGate, low_freqs
from unmingle.temporary import replace_files

if TYPE_CHECKING:
    import onnx

OPSET = 18
_LARGE = 1024
"""Constants of fewer values stay in single precision."""


def export_model(model: str | Path, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write a model's graphs and ``model.json`` into ``folder``; all files appear, or none.

    Args:
        model: a name of the package, or a path.
        folder: made if it is missing.
        overwrite: replace files of these names.

    Returns:
        The files.

    Raises:
        UnmingleError: no such model, a system that no graph can hold, or files that exist or cannot be written.
    """
    path = find_weights(model)
    system, (_, facts) = load_system(path), read_facts(path)
    graphs = graphs_of(system)
    targets = [folder / name for name in (MODEL_JSON, *graphs)]
    existing = [target for target in targets if target.exists()]
    if existing and not overwrite:
        raise UnmingleError(f"{existing[0]} exists; add --overwrite, or name another folder with -o.")
    written = {name: to_onnx(graph) for name, graph in graphs.items()}
    described = description(system, path.stem, written) | {"facts": facts.model_dump()}
    contents = [json.dumps(described, indent=1).encode(), *(halved(each) for each in written.values())]
    replace_files(list(zip(targets, contents, strict=True)))
    return targets


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """Trace a graph's module.

    By the tracing exporter: the newer one writes the number of frames of the example into LSTMs (torch 2.13).
    """
    import onnx

    file = io.BytesIO()
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=graph.axes,
        )
        given = graph.module(*graph.inputs.values())
    shapes = [value.shape for value in (given if isinstance(given, tuple) else (given,))]
    model = onnx.load_from_string(file.getvalue())
    for output, shape in zip(model.graph.output, shapes, strict=True):
        # The exporter does not know all lengths that are always the same.
        for number, axis in enumerate(output.type.tensor_type.shape.dim):
            if number not in graph.axes.get(output.name, {}):
                axis.dim_value = shape[number]
    onnx.checker.check_model(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # The exporter warns about itself, and about traced shapes and batches of LSTMs, which tests cover.
        warnings.simplefilter("ignore")
        yield


def halved(model: onnx.ModelProto) -> bytes:
    """Serialize a graph. Large constants are stored in half precision if that is exact; it computes in float32.

    The weights of a model file are in half precision, so the graph takes half the space and gives the same.
    """
    import onnx

    graph, casts = model.graph, []
    for constant in list(graph.initializer):
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size < _LARGE:
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = constant.name
        constant.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    content: bytes = model.SerializeToString()
    return content


def description(system: System, name: str, graphs: dict[str, onnx.ModelProto]) -> dict[str, Any]:
    """What ``model.json`` says: all that is needed beside the graphs."""
    assert isinstance(system, MaskingSystem)
    config = system.config
    described: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "task": "denoise" if isinstance(system, DenoisingSystem) else "separate",
        "sample_rate": system.sample_rate,
        "speakers": system.speakers,
        "stft": {
            "window": config.stft.window,
            "window_length": config.stft.window_length,
            "hop": config.stft.hop,
            "frames": "frame t is centred on sample t * hop; silence surrounds the recording",
        },
        "level": "the graphs divide by it: magnitudes may have any gain",
        "graphs": {file: {"does": GRAPHS[file.partition("_")[0].removesuffix(".onnx")], **_ports(model)}
                   for file, model in graphs.items()},
    }  # fmt: skip
    if isinstance(system, DenoisingSystem):
        described["denoising"] = _denoising(system)
    else:
        described["counting"] = _counting(system)
        described["parameters"] = _parameters(system, graphs)
    return described | {"config": config.model_dump()}


def _ports(model: onnx.ModelProto) -> dict[str, dict[str, list[int | str]]]:
    def shapes(values: Any) -> dict[str, list[int | str]]:
        return {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in values
        }

    return {"inputs": shapes(model.graph.input), "outputs": shapes(model.graph.output)}


def _parameters(system: MaskingSystem, graphs: Collection[str]) -> dict[str, Any]:
    """Parameters of formations that run outside the graphs."""
    first = system.first if isinstance(system, TwoStage) else system
    if not isinstance(first, EmbeddingSeparator) or any(name.startswith("masks_") for name in graphs):
        return {}
    values = dict(first.formation.state_dict())
    if first.config.learned_scale:
        values["log_scale"] = first.log_scale
    return {name: value.tolist() for name, value in values.items()}


def _counting(system: MaskingSystem) -> dict[str, Any]:
    first = system.first if isinstance(system, TwoStage) else system
    if isinstance(first, EmbeddingSeparator) and first.formation.counts_by_spread:
        return {"rule": "by the spread of the embeddings, before they are clustered; not in a graph"}
    rule = "estimates at most range_db below the loudest one are speakers"
    return {"rule": rule, "range_db": ENERGY_RANGE_DB}


def _denoising(system: DenoisingSystem) -> dict[str, Any]:
    said: dict[str, Any] = {
        "experts": len(system.experts),
        "default_expert": system.default_expert,
        "prelude_frames": system.prelude_frames,
        "state": [system.config.network.layers, system.config.network.hidden_size],
        "gate": None,
    }
    if isinstance(system, LocalExperts):
        gate = system.gate
        share = gate.low_share if isinstance(gate, SpecialistGate) else None
        said["gate"] = {
            "specialist": gate.specialist,
            "listening_frames": gate.listening_frames,
            "low_freqs": None if share is None else low_freqs(share, system.frontend.stft.freqs),
        }
    return said
