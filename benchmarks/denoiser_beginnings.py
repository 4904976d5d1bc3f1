"""What runs of the denoiser and of the generalist beside it begin with, from one mixture of local experts.

    python benchmarks/denoiser_beginnings.py EXPERTS.safetensors -o OUT [--banded-units 256] [--generalist-units 600]

OUT/specialist.safetensors: the first specialist alone, as a denoiser for all.
OUT/generalist.safetensors: one LSTM of three times the arithmetic that begins as the first two specialists, which
are chosen most, side by side: a block each of its units, the mean of what their dense layers say; the other units
are fresh and say nothing yet. So it has had the training that they had, and need not begin from nothing.
Experts that hear bands already begin these two only, with their bands. Of others also:
OUT/banded.safetensors: the same experts, hearing and masking bands above 750 Hz; with more units than they have, if
wanted, which are fresh. OUT/banded-generalist.safetensors: as the generalist above, with bands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from unmingle.models import ModelFacts, load_system, save_system
from unmingle.networks import Bands, Lstm, LstmConfig
from unmingle.systems import Denoiser, DenoiserConfig, DenoisingSystem, LocalExperts

BANDS_ABOVE = 750.0


def side_by_side(networks: list[Lstm], units: int, bands: Bands | None = None) -> Lstm:
    """One network whose outputs are the mean of those of ``networks``, with units to spare.

    With ``bands``, it hears a band as each network heard its bins, all alike, and says the mean of what they said.
    """
    freqs, layers = networks[0].linear.out_features, networks[0].layers.num_layers
    joined = Lstm(freqs, freqs, LstmConfig(layers=layers, hidden_size=units), bands)
    size = networks[0].layers.hidden_size
    with torch.no_grad():
        for name, values in joined.layers.named_parameters():
            # (gates, units, from): what came from a block goes to that block, and to no other.
            blocks = values.view(4, units, *values.shape[1:])
            recurrent = values.ndim == 2 and values.shape[1] == units
            for k, network in enumerate(networks):
                ours = slice(k * size, (k + 1) * size)
                theirs = network.layers.get_parameter(name)
                if bands is not None and name == "weight_ih_l0":
                    theirs = _added(theirs, bands)
                blocks[:, ours] = 0
                block = blocks[:, ours, ours] if recurrent else blocks[:, ours]
                block.copy_(theirs.view(4, size, *theirs.shape[1:]))
        weight = torch.cat([network.linear.weight for network in networks], dim=1) / len(networks)
        bias = torch.stack([network.linear.bias for network in networks]).mean(dim=0)
        joined.linear.weight.zero_()
        joined.linear.weight[:, : weight.shape[1]] = (
            weight if bands is None else bands.pool(weight.T[None])[0].T
        )
        joined.linear.bias.copy_(bias if bands is None else bands.pool(bias[None, None])[0, 0])
    return joined


def _added(weight: Tensor, bands: Bands) -> Tensor:
    """The sum of each band's columns of ``(values, freqs)``: all its bins are the same to the network."""
    return weight.new_zeros(len(weight), bands.count).index_add(1, bands.index, weight)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--banded-units", type=int, default=256)
    parser.add_argument("--generalist-units", type=int, default=600)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    experts = load_system(arguments.experts)
    assert isinstance(experts, LocalExperts)
    first = experts.config.network
    generalist = LstmConfig(layers=first.layers, hidden_size=arguments.generalist_units)
    banded = LstmConfig(layers=first.layers, hidden_size=arguments.banded_units)
    pair = [experts.experts[0], experts.experts[1]]
    above = experts.config.bands_above
    begun: dict[str, tuple[DenoisingSystem, list[list[Lstm]]]] = {
        "specialist": (Denoiser(DenoiserConfig(network=first, bands_above=above)), [pair[:1]]),
        "generalist": (Denoiser(DenoiserConfig(network=generalist, bands_above=above)), [pair]),
    }
    if above is None:
        begun["banded"] = (
            LocalExperts(experts.config.model_copy(update={"network": banded, "bands_above": BANDS_ABOVE})),
            [[expert] for expert in experts.experts],
        )
        begun["banded-generalist"] = (
            Denoiser(DenoiserConfig(network=generalist, bands_above=BANDS_ABOVE)),
            [pair],
        )
    for name, (system, blocks) in begun.items():
        system.frontend.load_state_dict(experts.frontend.state_dict())
        for network, parts in zip(system.experts, blocks, strict=True):
            units = network.layers.hidden_size
            bands = network.bands if above is None else None
            network.load_state_dict(side_by_side(parts, units, bands).state_dict())
        if isinstance(system, LocalExperts):
            system.gate.load_state_dict(experts.gate.state_dict())
        save_system(system, arguments.output / f"{name}.safetensors", ModelFacts(task="denoise"))


if __name__ == "__main__":
    main()
