"""A frozen network that is larger than one GPU: its blocks in pieces over the ranks, by PyTorch's own fully_shard.

A block is put together just before it computes, forward and backward, and taken apart after; nothing of it is ever sent
back, because nothing of it learns. Every rank must ask the network as often as the others.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import TrainError
from .blocks import blocks_of


def mesh_of(device: torch.device, world: int) -> Any:
    """All ranks in one line. Every rank makes it at the same time."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (world,))


def in_pieces(network: torch.nn.Module, mesh: Any) -> None:
    """Each rank keeps its part of every weight. Raises TrainError for weights that cannot be cut."""
    from torch.distributed.fsdp import fully_shard

    odd = [name for name, p in network.named_parameters() if not p.is_floating_point()]
    odd += [name for name, p in network.named_parameters() if type(p) is not torch.nn.Parameter]
    if odd:
        raise TrainError(
            f"Weights such as {odd[0]} are packed or quantised and cannot be cut into pieces. Use a model in 16 or 32 "
            "bits, or a quantised one whole on each GPU."
        )
    for block in blocks_of(network).values():
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def bytes_held(network: torch.nn.Module) -> int:
    """Of the weights, on this rank."""
    return sum(part.numel() * part.element_size() for part in map(own_part, network.parameters()))


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a weight: all of it, unless it is in pieces."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
