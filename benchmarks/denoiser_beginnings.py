"""What the last runs of the denoiser and of the generalist beside it begin with, from one mixture of local experts.

    python benchmarks/denoiser_beginnings.py EXPERTS.safetensors -o OUT

OUT/specialist.safetensors: the first specialist alone, as a denoiser for all.
OUT/generalist.safetensors: one LSTM of three times the arithmetic that begins as the first two specialists, which
are chosen most, side by side: a block each of its units, the mean of what their dense layers say; the other units
are fresh and say nothing yet. So it has had the training that they had, and need not begin from nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from unmingle.models import ModelFacts, load_system, save_system
from unmingle.networks import Lstm, LstmConfig
from unmingle.systems import Denoiser, DenoiserConfig, LocalExperts

UNITS = 600


def side_by_side(networks: list[Lstm], units: int) -> Lstm:
    """One network whose outputs are the mean of those of ``networks``, with units to spare."""
    freqs, layers = networks[0].linear.out_features, networks[0].layers.num_layers
    joined = Lstm(freqs, freqs, LstmConfig(layers=layers, hidden_size=units))
    size = networks[0].layers.hidden_size
    with torch.no_grad():
        for name, values in joined.layers.named_parameters():
            # (gates, units, from): what came from a block goes to that block, and to no other.
            blocks = values.view(4, units, *values.shape[1:])
            recurrent = values.ndim == 2 and values.shape[1] == units
            for k, network in enumerate(networks):
                ours = slice(k * size, (k + 1) * size)
                theirs = network.layers.get_parameter(name)
                blocks[:, ours] = 0
                block = blocks[:, ours, ours] if recurrent else blocks[:, ours]
                block.copy_(theirs.view(4, size, *theirs.shape[1:]))
        joined.linear.weight.zero_()
        joined.linear.weight[:, : size * len(networks)] = torch.cat(
            [network.linear.weight for network in networks], dim=1
        ) / len(networks)
        joined.linear.bias.copy_(torch.stack([network.linear.bias for network in networks]).mean(dim=0))
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    experts = load_system(arguments.experts)
    assert isinstance(experts, LocalExperts)
    networks = {
        "specialist": experts.experts[0],
        "generalist": side_by_side([experts.experts[0], experts.experts[1]], UNITS),
    }
    for name, network in networks.items():
        layers = network.layers
        sizes = LstmConfig(layers=layers.num_layers, hidden_size=layers.hidden_size)
        system = Denoiser(DenoiserConfig(network=sizes))
        system.frontend.load_state_dict(experts.frontend.state_dict())
        system.network = network
        save_system(system, arguments.output / f"{name}.safetensors", ModelFacts(task="denoise"))


if __name__ == "__main__":
    main()
