"""Processes that train one LoRA together: torch.distributed, as torchrun starts them, or one process alone.

Every rank holds the whole adapter and takes a share of each batch. One sum over all of them a step makes the gradients
those of the whole batch; from then on every rank does the same, so that nothing else needs to be sent.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from ..errors import LoraError, TrainError

Value = TypeVar("Value")
# A rank that is lost is noticed by torchrun at once; this is for one that hangs, and must outlast sample pictures.
_PATIENCE = timedelta(hours=1)
# Seconds between two looks for each other.
_APART = 0.05


@dataclass
class Ranks:
    """This process among `world`; on its machine it is number `local` of `local_world`.

    wish: asked on rank 0 once a step, whether to end the training; stopping: what all have heard of it.
    in_step: a network in pieces over the ranks answers only where all of them ask it at once. sent: bytes that a rank
    gave into the last sum.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    wish: Callable[[], bool] = lambda: False
    stopping: bool = False
    in_step: bool = False
    sent: int = 0

    @property
    def name(self) -> str:
        return f"rank {self.rank} of {self.world}"

    def share(self, first: int, last: int) -> range:
        """Of the samples first ... last - 1, numbered over the whole run: those that are this rank's."""
        return range(first + (self.rank - first) % self.world, last, self.world)

    def summed(self, parameters: Sequence[torch.nn.Parameter], loss: float) -> float:
        """Gradients become their sums over all ranks, in one flat tensor; returns the sum of the losses.

        A rank without samples in this step gives zeros.
        """
        wished = self.rank == 0 and self.wish()
        if self.world == 1:
            self.stopping = wished
            return loss
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        said = torch.tensor([loss, float(wished)], device=found[0].device)
        flat = torch.cat([*(each.reshape(-1).float() for each in found), said])
        dist.all_reduce(flat)
        self.sent = flat.numel() * flat.element_size()
        pieces = flat[:-2].split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
        total, wish = flat[-2:].tolist()
        self.stopping = wish > 0
        return total

    def mean(self, values: torch.Tensor) -> float:
        """Of the values (n,) of all ranks together."""
        if self.world == 1:
            return float(values.mean())
        pair = torch.stack([values.double().sum(), values.new_tensor(len(values)).double()])
        dist.all_reduce(pair)
        total, count = pair.tolist()
        return total / count

    def gathered(self, value: Value) -> list[Value]:
        """Each rank's value, in their order. For plain values and small tensors on the CPU."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def handed(self, value: Value) -> Value:
        """Rank 0's value."""
        if self.world == 1:
            return value
        held: list[Any] = [value]
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def refuse(self, fault: str) -> None:
        """Raises TrainError on all ranks where one of them has a fault; none is left waiting for it."""
        faults = self.gathered(fault)
        said = [f"rank {rank}: {each}" for rank, each in enumerate(faults) if each]
        if said:
            raise TrainError(" | ".join(said) if self.world > 1 else fault)

    def refuse_unlike(self, facts: Mapping[str, str]) -> None:
        """Raises TrainError on all ranks where one of the facts is not the same on all of them."""
        everyone = self.gathered(dict(facts))
        for name, mine in everyone[0].items():
            other = next((n for n, each in enumerate(everyone) if each.get(name) != mine), None)
            if other is not None:
                raise TrainError(
                    f"{name} is {mine} on rank 0 and {everyone[other].get(name)} on rank {other}. All machines of a "
                    "job need the same; nothing was trained."
                )

    def refuse_apart(self, step: int, digest: str) -> None:
        """Raises TrainError on all ranks where one of them has another adapter than rank 0."""
        digests = self.gathered(digest)
        apart = [str(rank) for rank, each in enumerate(digests) if each != digests[0]]
        if apart:
            raise TrainError(
                f"After step {step} the adapter of rank {', '.join(apart)} is not that of rank 0: from the same gradients "
                "those machines come to other numbers. Train on machines of one kind; the saved states are rank 0's."
            )

    def in_turns(self, run: Callable[[], Value]) -> Value:
        """What it returns; the ranks of one machine one after another. Raises what it raises, then on all ranks."""
        found: list[Value] = []
        fault: Exception | None = None
        for turn in range(max(self.gathered(self.local_world))):
            if turn == self.local:
                try:
                    found.append(run())
                except (LoraError, OSError, RuntimeError) as error:
                    fault = error
            self.gathered(turn)
        self.refuse("" if fault is None else str(fault))
        return found[0]

    @contextmanager
    def told(self) -> Iterator[None]:
        """A LoraError of one rank, within the block, becomes one of all. Ranks must not talk in it."""
        fault = ""
        try:
            yield
        except LoraError as error:
            fault = str(error)
        self.refuse(fault)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """This process among those that torchrun started, by its environment variables; without them it is alone."""
    if "RANK" not in os.environ or not dist.is_available():
        yield Ranks()
        return
    # Not there in a torch built without it.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, world, local, local_world = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    # What is said in words goes over the CPU, sums over the accelerator's own links.
    way = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    alone = PrefixStore(_meeting(store, rank, world), store)
    dist.init_process_group(way, store=alone, rank=rank, world_size=world, timeout=_PATIENCE)
    yield Ranks(rank, world, local, local_world)
    dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End this process with what is due at its exit, and without taking Python down: the last thing that a rank does.

    gloo's threads let go of a sum's tensors whenever they get to it, and need Python's lock for that. destroy_process_group
    ends them only where nothing else holds the group, and a network in pieces does. A thread that asks a Python for its
    lock that is going down is ended in the midst of it, which aborts the process (torch 2.13, Python 3.11).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _meeting(store: Any, rank: int, world: int) -> str:
    """A name that only the processes alive now share.

    torchrun keeps one store over its restarts, in which the addresses of lost processes still stand (torch 2.13), and
    machines count their restarts each for itself. So every rank says who it is, rank 0 calls them by what they said, and
    a rank that hears its own name says whose call it heard.
    """
    mine, until = uuid.uuid4().hex, time.monotonic() + _PATIENCE.total_seconds()
    store.set(f"loom/here/{rank}", mine)
    while time.monotonic() < until:
        if rank:
            caller, *called = _said(store, "loom/call").split()
            if called and called[rank] == mine:
                store.set(f"loom/heard/{rank}", caller)
                return caller
        else:
            here = [_said(store, f"loom/here/{each}") for each in range(world)]
            store.set("loom/call", " ".join([mine, *here]))
            if all(_said(store, f"loom/heard/{each}") == mine for each in range(1, world)):
                return mine
        time.sleep(_APART)
    raise TrainError(f"rank {rank} of {world} waited for the others in vain.")


def _said(store: Any, key: str) -> str:
    """ "-" for nothing yet."""
    return store.get(key).decode() if store.check([key]) else "-"


def digest_of(tensors: Sequence[torch.Tensor]) -> str:
    """sha256 of the bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
