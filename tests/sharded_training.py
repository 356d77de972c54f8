"""Trainings in groups of processes that shard their network: what tests start.

Accelerate takes FSDP for devices alone, and trains by DDP on processors without a word. So its state is told of FSDP here; from there
on all is as on GPUs, by Accelerate's own preparation and `torch.distributed.fsdp.fully_shard`, over gloo.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

SECONDS = 900


def together(processes: int, work: Callable[[], None], killed: int = 0) -> None:
    """Do work in each of a group of processes, which are forked off one that has imported what they need; the last `killed` are killed by it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hfgen.trainer.train", "hfgen.families.ddpm"])
    port = free_port()
    group = [context.Process(target=in_group, args=(rank, processes, port, work)) for rank in range(processes)]
    for process in group:
        process.start()
    for process in group:
        process.join(SECONDS)
    ended = [process.exitcode for process in group]
    for process in group:
        process.kill()
    assert ended == [0] * (processes - killed) + [-signal.SIGKILL] * killed


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def in_group(rank: int, processes: int, port: int, work: Callable[[], None]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    work()


def sharded(make_accelerator: Callable, smallest: int, config):
    """The accelerator of a configuration, set up as `accelerate launch --use_fsdp` sets it up on GPUs."""
    from accelerate import DistributedType, FullyShardedDataParallelPlugin
    from accelerate.state import PartialState

    accelerator = make_accelerator(config)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="SIZE_BASED_WRAP", min_num_params=smallest, cpu_ram_efficient_loading=False
    )
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


def train_sharded(words: list[str], smallest: int = 500) -> None:
    """Train a DDPM by its flags; parts of more parameters than `smallest` are sharded by themselves."""
    import torch

    from hfgen.cli.parser import parse_training_config
    from hfgen.trainer import train

    torch.set_num_threads(1)
    train.make_accelerator = partial(sharded, train.make_accelerator, smallest)
    train.train(parse_training_config("ddpm", words))


def killed_after(step: int, words: list[str], told: Path) -> None:
    """Train until the second process is killed after a step, and write down what the first one then tells, and after how many seconds."""
    from hfgen.core.errors import explain
    from hfgen.trainer.progress import Progress

    tick, first, ticks = Progress.tick, os.environ["RANK"] == "0", []

    def counted(progress: Progress) -> None:
        tick(progress)
        ticks.append(time.monotonic())
        if not first and progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Progress.tick = counted
    try:
        train_sharded(words)
    except Exception as error:
        told.write_text(json.dumps([time.monotonic() - ticks[-1], explain(error)]))


def store_and_fill(folder: Path) -> None:
    """What is in parts is stored and read as a whole would be; this runs in each process of a group."""
    import pytest
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    from hfgen.core.errors import HfgenError
    from hfgen.trainer.parts import fill, joined, local_part
    from hfgen.trainer.shards import Stored, check_shards, in_parts, write_shards

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    # rows that the processes share unevenly, and of which the last has none
    wholes = {"five": torch.arange(10.0).view(5, 2), "one": torch.full((1, 3), 7.0)}
    parts = {name: distribute_tensor(torch.zeros_like(whole), mesh, [Shard(0)]) for name, whole in wholes.items()}
    for name, part in parts.items():
        fill(part, wholes[name])
        assert part.full_tensor().equal(wholes[name])
        parameter = torch.nn.Parameter(part)
        assert local_part(parameter).requires_grad
        assert local_part(parameter).is_leaf
        local_part(parameter).data.mul_(2)
        assert joined(local_part(parameter).detach(), parameter).full_tensor().equal(2 * wholes[name])
    with pytest.raises(ValueError, match="shape"):
        fill(parts["one"], wholes["five"])

    files = {"model.safetensors": {**parts, "everywhere": torch.tensor(3)}, "state.safetensors": {"x": torch.ones(2)}}
    sharded = in_parts(files)
    assert list(sharded) == ["model.safetensors"]
    write_shards(folder, sharded)
    dist.barrier()
    check_shards(folder, sharded)
    if dist.get_rank() == 0:
        (folder / "trainer_state.json").write_text('{"sharded": ["model.safetensors"]}')
    dist.barrier()
    stored = Stored(folder)
    kinds = stored.into("model.safetensors", lambda _, kind: torch.empty_like(kind, device="cpu"))
    assert {name: tuple(kind.shape) for name, kind in kinds.items()} == {
        "five": (5, 2),
        "one": (1, 3),
        "everywhere": (),
    }
    for targets in (
        {name: torch.empty_like(kind, device="cpu") for name, kind in kinds.items()},
        {name: torch.zeros_like(value) for name, value in files["model.safetensors"].items()},
    ):
        stored.fill("model.safetensors", targets)
        for name, whole in wholes.items():
            found = targets[name]
            assert (found.full_tensor() if hasattr(found, "full_tensor") else found).equal(2 * whole)
        assert targets["everywhere"] == 3
    with pytest.raises(ValueError, match="there or here alone"):
        stored.fill("model.safetensors", {"five": torch.zeros(5, 2)})

    dist.barrier()
    with pytest.raises(HfgenError):  # on both, whichever it is that cannot write
        write_shards(folder / "trainer_state.json" / "below", sharded)
    if dist.get_rank() == 1:
        next(folder.glob("shard-00002*")).unlink()
    dist.barrier()
    with pytest.raises(HfgenError, match="a disk that all machines share"):
        check_shards(folder, sharded)
    dist.destroy_process_group()
