"""The graphs of a system: modules that are traced for ONNX, with their inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from unmingle.attractors import AnchoredAttractors, FixedAttractors
from unmingle.errors import UnmingleError
from unmingle.frontend import FADE, FrontEnd, WeightConfig, bin_weights, level_of_sums
from unmingle.networks import Lstm
from unmingle.systems import (
    DenoisingSystem,
    EmbeddingSeparator,
    MaskInference,
    MaskingSystem,
    System,
    TwoStage,
)
from unmingle.systems.gates import LstmGate, SpecialistGate

GRAPHS = {
    "embed": "magnitudes to an embedding of every bin, and which bins form attractors",
    "masks": "masks of the sources; from embeddings also their attractors",
    "refine": "better masks from the masks of the first stage",
    "features": "features of the next frames relative to the running level; sums are its state, zero at first",
    "expert": "the mask of the next frames; h and c are its state, zero at first",
    "gate": "scores of the experts; the highest is chosen",
}
"""Descriptions of the graphs, by the start of their files' names."""
_TRACED_FRAMES = 50
_MOST_SUBSETS = 64
"""Maximum number of anchors in all subsets, for graphs of more speakers than the system has. A graph computes all
subsets of anchors at once, and every anchor needs an array of the spectrogram's size."""


@dataclass(frozen=True)
class Graph:
    """One graph to write."""

    module: nn.Module
    inputs: dict[str, Tensor]
    """Example inputs for tracing."""
    outputs: Sequence[str]
    axes: dict[str, dict[int, str]]
    """By input or output: the dimensions of variable length, with their names."""


def graphs_of(system: System) -> dict[str, Graph]:
    """The graphs of a system, by the names of their files.

    Raises:
        UnmingleError: it cannot be exported; the text says why.
    """
    if isinstance(system, DenoisingSystem):
        return _graphs_of_denoiser(system)
    if isinstance(system, TwoStage):
        frames = {name: {0: "batch", 1: "sources", 2: "frames"} for name in ("masks", "refined")}
        magnitude, masks = _magnitude(system), torch.rand(1, system.speakers, _TRACED_FRAMES, _freqs(system))
        axes = {"magnitude": {0: "batch", 1: "frames"}, **frames}
        refine = Graph(_Refined(system), {"magnitude": magnitude, "masks": masks}, ["refined"], axes)
        return graphs_of(system.first) | {"refine.onnx": refine}
    if isinstance(system, MaskInference):
        axes = {"magnitude": {0: "batch", 1: "frames"}, "masks": {0: "batch", 2: "frames"}}
        return {"masks.onnx": Graph(_Inferred(system), {"magnitude": _magnitude(system)}, ["masks"], axes)}
    if not isinstance(system, EmbeddingSeparator):
        raise UnmingleError(
            f"A {type(system).__name__} cannot be exported; export an embedding separator, uPIT, a two-stage system, "
            "or a denoiser."
        )
    if system.needs_sources:
        raise UnmingleError(
            "Oracle attractors cannot be exported: they need the true sources; export a model with another formation."
        )
    return _graphs_of_embedding(system)


def _magnitude(system: MaskingSystem) -> Tensor:
    return torch.rand(1, _TRACED_FRAMES, _freqs(system))


def _freqs(system: MaskingSystem) -> int:
    return system.frontend.stft.freqs


def _graphs_of_embedding(system: EmbeddingSeparator) -> dict[str, Graph]:
    time = {0: "batch", 1: "frames"}
    axes = {"magnitude": time, "embedding": time, "weight": time}
    embed = Graph(_Embedded(system), {"magnitude": _magnitude(system)}, ["embedding", "weight"], axes)
    graphs = {"embed.onnx": embed}
    given = {
        "embedding": torch.randn(1, _TRACED_FRAMES, _freqs(system), system.config.dimension),
        "weight": torch.ones(1, _TRACED_FRAMES, _freqs(system)),
    }
    axes = {"embedding": time, "weight": time, "masks": {0: "batch", 2: "frames"}, "attractors": {0: "batch"}}
    for sources in formed_counts(system):
        module = _Formed(system, sources)
        graphs[f"masks_{sources}.onnx"] = Graph(module, given, ["masks", "attractors"], axes)
    return graphs


def formed_counts(system: EmbeddingSeparator) -> list[int]:
    """Numbers of attractors with a graph. The list is empty for formations that cluster bins: they run in PyTorch."""
    formation = system.formation
    if isinstance(formation, FixedAttractors):
        counts = list(range(1, len(formation.points) + 1))
    elif isinstance(formation, AnchoredAttractors):
        anchors = len(formation.anchors)

        def fits(sources: int) -> bool:
            return sources <= system.speakers or sources * math.comb(anchors, sources) <= _MOST_SUBSETS

        counts = list(takewhile(fits, range(1, anchors + 1)))
    else:
        return []
    return sorted({system.formed_attractors(count) for count in counts})


def _graphs_of_denoiser(system: DenoisingSystem) -> dict[str, Graph]:
    time = {0: "batch", 1: "frames"}
    given = {"magnitude": _magnitude(system), "sums": torch.zeros(2, 1, dtype=torch.float64)}
    axes = {"magnitude": time, "features": time, "sums": {1: "batch"}, "sums_after": {1: "batch"}}
    graphs = {"features.onnx": Graph(_Features(system.frontend), given, ["features", "sums_after"], axes)}
    for number, expert in enumerate(system.experts):
        graphs[f"expert_{number}.onnx"] = _recurrent(_Expert(expert), expert, ["mask", "logits"])
    gate = system.gate
    if isinstance(gate, SpecialistGate):
        axes = {"evidence": {0: "batch"}, "scores": {0: "batch"}}
        given = {"evidence": torch.rand(1, 3 if gate.low_share is None else 6)}
        graphs["gate.onnx"] = Graph(gate, given, ["scores"], axes)
    elif isinstance(gate, LstmGate):
        graphs["gate.onnx"] = _recurrent(_Gate(gate), gate, ["scores"])
    return graphs


def _recurrent(module: nn.Module, network: Lstm, outputs: list[str]) -> Graph:
    """The graph of a recurrent step: any number of frames, with the states before and after them."""
    h, c = network.initial_state(1)
    bins = network.layers.input_size if network.bands is None else len(network.bands.index)
    given = {"features": torch.rand(1, _TRACED_FRAMES, bins), "h": h, "c": c}
    axes = {name: {0: "batch", 1: "frames"} for name in ("features", *outputs)}
    axes |= {name: {1: "batch"} for name in ("h", "c", "h_after", "c_after")}
    return Graph(module, given, [*outputs, "h_after", "c_after"], axes)


class _Embedded(nn.Module):
    def __init__(self, system: EmbeddingSeparator) -> None:
        super().__init__()
        self.system = system

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        relative, rule = _relative(self.system, magnitude), self.system.test_weight
        embedding = self.system.network(self.system.frontend.features(relative))
        if self.system.config.unit_norm:
            embedding = nn.functional.normalize(embedding, dim=-1)
        return embedding, _weights(rule, relative if rule.rule == "near_level" else magnitude)


def _relative(system: MaskingSystem, magnitude: Tensor) -> Tensor:
    """Like :meth:`~unmingle.frontend.FrontEnd.relative` of whole mixtures, but without its loop."""
    if system.config.stft.level == "whole":
        return system.frontend.relative(magnitude)
    before = torch.zeros(2, 1, dtype=torch.float64)
    return magnitude / level_of_sums(_fading_sums(magnitude, before)).to(magnitude.dtype).unsqueeze(-1)


def _fading_sums(magnitude: Tensor, before: Tensor) -> Tensor:
    """Sums ``(2, batch, frames)`` of the running level, starting from ``before`` ``(2, batch)``.

    ``sums[t] = fade^t (before + p[1] / fade + p[2] / fade^2 ...)``, as a cumulative sum in double precision. It
    overflows beyond 200,000 frames.
    """
    power = magnitude.square().sum(dim=-1).double()
    both = torch.stack([power, power.square()])
    faded = torch.exp(math.log(FADE) * torch.ones_like(both).cumsum(dim=2))
    return faded * (before.unsqueeze(2) + (both / faded).cumsum(dim=2))


def _weights(rule: WeightConfig, magnitude: Tensor) -> Tensor:
    """Like :func:`~unmingle.frontend.bin_weights`. ONNX has no k-th smallest value, so it takes the k smallest."""
    if rule.rule != "loudest":
        return bin_weights(rule, magnitude)
    values = magnitude.flatten(1)
    count = torch.tensor(values.shape[1])
    quiet = torch.round((1 - rule.value) * count.double()).long()
    smallest = torch.minimum(quiet, count - 1) + 1
    threshold = values.topk(smallest, largest=False).values.amax(dim=1)  # type: ignore[arg-type]
    return (magnitude >= threshold[:, None, None]).to(magnitude.dtype)


class _Formed(nn.Module):
    """Attractors and masks for a number of sources."""

    def __init__(self, system: EmbeddingSeparator, sources: int) -> None:
        super().__init__()
        self.system, self.sources = system, sources

    def forward(self, embedding: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.system.masks_of(embedding, weight, self.sources)


class _Inferred(nn.Module):
    def __init__(self, system: MaskInference) -> None:
        super().__init__()
        self.system = system

    def forward(self, magnitude: Tensor) -> Tensor:
        features = self.system.frontend.features(_relative(self.system, magnitude))
        return torch.relu(self.system.network(features))


class _Refined(nn.Module):
    def __init__(self, system: TwoStage) -> None:
        super().__init__()
        self.refiner = system.refiner

    def forward(self, magnitude: Tensor, masks: Tensor) -> Tensor:
        refined: Tensor = self.refiner(magnitude, magnitude.unsqueeze(1) * masks)
        return refined


class _Features(nn.Module):
    """Features of the next frames with the running level, like :meth:`~unmingle.frontend.FrontEnd.step`."""

    def __init__(self, frontend: FrontEnd) -> None:
        super().__init__()
        self.frontend = frontend

    def forward(self, magnitude: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        after = _fading_sums(magnitude, sums)
        levels = level_of_sums(after).to(magnitude.dtype)
        return self.frontend.features(magnitude / levels.unsqueeze(-1)), after[..., -1]


class _Expert(nn.Module):
    def __init__(self, network: Lstm) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, (h, c) = self.network.step(features, (h, c))
        return torch.sigmoid(logits), logits, h, c


class _Gate(nn.Module):
    def __init__(self, network: Lstm) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, (h, c) = self.network.step(features, (h, c))
        return scores, h, c
