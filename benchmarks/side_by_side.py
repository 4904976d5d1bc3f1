"""Make the beginning of a generalist: the first two specialists of a mixture of local experts side by side.

    python benchmarks/side_by_side.py EXPERTS.safetensors -o OUT/generalist.safetensors [--units 528]

One LSTM holds both networks as separate blocks of units; its output is the mean of theirs. Further units start with
output weight zero. A generalist that starts from it has had the training of these two networks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from unmingle.models import ModelFacts, load_system, save_system
from unmingle.networks import Lstm
from unmingle.systems import Denoiser, DenoiserConfig, LocalExperts


def fill_side_by_side(joined: Lstm, networks: list[Lstm]) -> None:
    """Give ``joined`` the weights with which its outputs are the mean of those of ``networks``."""
    units, size = joined.layers.hidden_size, networks[0].layers.hidden_size
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
        weight = torch.cat([network.linear.weight for network in networks], dim=1) / len(networks)
        joined.linear.weight.zero_()
        joined.linear.weight[:, : weight.shape[1]] = weight
        joined.linear.bias.copy_(torch.stack([network.linear.bias for network in networks]).mean(dim=0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--units", type=int, default=528)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    experts = load_system(arguments.experts)
    if not isinstance(experts, LocalExperts):
        raise SystemExit(f"{arguments.experts} is no mixture of local experts; give a model that is one.")
    config = experts.config
    if arguments.units < 2 * config.network.hidden_size:
        raise SystemExit(f"--units must be at least {2 * config.network.hidden_size}, for two specialists.")
    generalist = Denoiser(
        DenoiserConfig(
            network=config.network.model_copy(update={"hidden_size": arguments.units}),
            bands_above=config.bands_above,
            prelude_seconds=config.prelude_seconds,
        )
    )
    generalist.frontend.load_state_dict(experts.frontend.state_dict())
    fill_side_by_side(generalist.network, list(experts.experts[:2]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_system(generalist, arguments.output, ModelFacts(task="denoise"))


if __name__ == "__main__":
    main()
