"""How the processes of a training have its network: each whole, or all of them in shards (FSDP2, through Accelerate).

The loop is the same. What differs is here: what has to be done by all processes at once is done by all, and what works on a whole
network, such as drawing samples and saving the pipeline, gets a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import convert_outputs_to_fp32
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy, transformer_auto_wrap_policy

from hfgen.core.errors import HfgenError
from hfgen.trainer.checkpoints import complete_checkpoint, failure_told, save_checkpoint
from hfgen.trainer.output import OutputFolder
from hfgen.trainer.setup import on_main_process
from hfgen.trainer.shards import SHARDED, check_shards, in_parts, write_shards

LISTS = torch.nn.ModuleList, torch.nn.ModuleDict
Files = Mapping[str, dict[str, torch.Tensor]]


class Layout:
    """Each process has the network whole; the methods are called on every process."""

    def __init__(self, accelerator: Accelerator, module: torch.nn.Module):
        self.accelerator, self.module = accelerator, module

    def place(self, memory_format: torch.memory_format) -> None:
        """Bring the network to where it is trained, before the accelerator wraps it."""
        self.module.to(self.accelerator.device, memory_format=memory_format)

    def check(self) -> None:
        """Raise `HfgenError` for what the accelerator has made of it, if that is of no use."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, parameters may be replaced, and the network be called without a backward pass."""
        yield

    @contextmanager
    def whole(self) -> Iterator[torch.nn.Module]:
        """The network as it is now, to work with on the main process alone."""
        yield self.module

    def shares(self, batches: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, bool]]:
        """The batches that this process calls the network with, and whether each counts."""
        own = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        return [(rows, True) for rows in own]

    def save(self, output: OutputFolder, *, state: Mapping[str, Any], files: Files, limit: int | None) -> None:
        """`save_checkpoint`, on the main process."""
        save = partial(save_checkpoint, output, state=state, files=files, limit=limit)
        on_main_process(self.accelerator, save)


class Sharded(Layout):
    """Each process has a shard of every parameter, and of its gradient, moments and average.

    The main process keeps a whole copy in the machine's memory, of the class that the network had.
    """

    def __init__(self, accelerator: Accelerator, module: torch.nn.Module):
        super().__init__(accelerator, module)
        _wrap_by_class(accelerator.state.fsdp_plugin, module)
        shared = {id(part): part for part in getattr(module, "frozen", ())}
        self.copy = copy.deepcopy(module, shared) if accelerator.is_main_process else module

    def place(self, memory_format: torch.memory_format) -> None:
        """The shards are brought there as they are cut, from parameters in the order of their dimensions.

        Mixed precision is autocast's, as that of a whole network: FSDP2's own would round timesteps and sums of gradients too.
        """
        self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        if self.accelerator.mixed_precision != "no":
            forward = self.accelerator.autocast()(self.module.forward)
            self.module.forward = convert_outputs_to_fp32(forward)

    def check(self) -> None:
        """Raise `HfgenError` when no part of the network has been sharded by itself."""
        if not any(isinstance(part, FSDPModule) for part in self.module.modules() if part is not self.module):
            largest = max(map(_size, self.module.children()), default=0)
            raise HfgenError(
                f"no part of this network is sharded, of which the largest has {largest:,} parameters: pass accelerate launch "
                "--fsdp_auto_wrap_policy SIZE_BASED_WRAP and a lower --fsdp_min_num_params"
            )

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """FSDP2 keeps what it has gathered for a backward pass: without one it must be let go, or it is called with again."""
        self._let_go()
        yield
        self._let_go()

    def _let_go(self) -> None:
        for part in self.module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    @contextmanager
    def whole(self) -> Iterator[torch.nn.Module]:
        """The copy, on the device, with the weights of all shards; the other processes have nothing to do with it."""
        self._let_go()
        gathered = get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if not self.accelerator.is_main_process:
            yield self.copy
            return
        self.copy.load_state_dict(gathered)
        self.copy.to(self.accelerator.device).train(self.module.training)
        try:
            yield self.copy
        finally:
            self.copy.to("cpu")

    def shares(self, batches: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, bool]]:
        """As many on each process, since they call the network together: who has no more takes the first again, uncounted."""
        own = super().shares(batches)
        rounds = -(-len(batches) // self.accelerator.num_processes)
        return own + [(batches[0], False)] * (rounds - len(own))

    def save(self, output: OutputFolder, *, state: Mapping[str, Any], files: Files, limit: int | None) -> None:
        """Each process writes its shards; the main process all else, and then puts the checkpoint in its place."""
        sharded = in_parts(files)
        rest = {name: tensors for name, tensors in files.items() if name not in sharded}
        with ExitStack() as stack:
            beside = on_main_process(self.accelerator, lambda: stack.enter_context(output.beside()))
            with failure_told(output, state["step"]):
                write_shards(beside, sharded)

            def complete() -> None:
                with failure_told(output, state["step"]):
                    check_shards(beside, sharded)
                    told = {**state, SHARDED: list(sharded)}
                    complete_checkpoint(output, beside, state=told, files=rest, limit=limit)

            on_main_process(self.accelerator, complete)


def _wrap_by_class(plugin: FullyShardedDataParallelPlugin, module: torch.nn.Module) -> None:
    """Turn a smallest size into the classes of parts that are larger and have parts themselves.

    Accelerate 1.15 would also shard lists of blocks, which FSDP2 refuses, and each layer by itself.
    """
    if plugin.auto_wrap_policy is size_based_auto_wrap_policy:
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = sorted(
            {
                type(part).__name__
                for part in module.modules()
                if part is not module
                and any(part.children())
                and not isinstance(part, LISTS)
                and _size(part) > plugin.min_num_params
            }
        )


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def layout(accelerator: Accelerator, module: torch.nn.Module) -> Layout:
    """What the accelerator is set up for; a network to be sharded is not yet prepared by it."""
    return (Sharded if accelerator.is_fsdp2 else Layout)(accelerator, module)
