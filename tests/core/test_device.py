"""Threads: a launcher's default is no choice of the user's."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from hfgen.core import device as device_module
from hfgen.core.device import threads_to_use, use_share_of_cores

ACCELERATE = {"ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "OMP_NUM_THREADS": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "before", "words", "threads"),
    [
        # nobody has chosen: torch's own default, or a share
        ({}, {}, [], None),
        ({"LOCAL_WORLD_SIZE": "4"}, None, [], 16),
        # started by hand with a number
        ({"OMP_NUM_THREADS": "1"}, None, [], None),
        ({"OMP_NUM_THREADS": "3", "LOCAL_WORLD_SIZE": "4"}, None, [], None),
        # the launchers' own 1
        (ACCELERATE, {}, ["accelerate", "launch", "x.py"], 64),
        (TORCHRUN, {}, ["torchrun", "x.py"], 32),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "100"}, {}, [], 1),
        # a number that was there before the launcher
        (ACCELERATE, {"OMP_NUM_THREADS": "1"}, [], None),
        (TORCHRUN, {"OMP_NUM_THREADS": "1"}, [], None),
        (ACCELERATE, {"MKL_NUM_THREADS": "2"}, [], None),
        # a number that the launcher was asked for
        (ACCELERATE, {}, ["accelerate", "launch", "--num_cpu_threads_per_process", "1", "x.py"], None),
        (ACCELERATE, {}, ["accelerate", "launch", "--num-cpu-threads-per-process=1", "x.py"], None),
        # a number that a launcher gives by itself where it is not told any is no choice
        ({**ACCELERATE, "OMP_NUM_THREADS": "8"}, {}, [], 64),
        # an unknown launcher: 1 is what launchers set
        (ACCELERATE, None, [], 64),
        ({**ACCELERATE, "OMP_NUM_THREADS": "8"}, None, [], None),
    ],
)
def test_who_has_chosen_the_number_of_threads(environment, before, words, threads):
    assert threads_to_use(environment, before, words, cores=64) == threads


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_share_is_set_on_a_cpu_alone(monkeypatch, threads):
    torch.set_num_threads(1)
    monkeypatch.setattr(device_module, "threads_to_use", lambda *_, cores: cores + 1)
    monkeypatch.setattr(device_module.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    use_share_of_cores(torch.device("meta"))
    assert torch.get_num_threads() == 1
    use_share_of_cores(torch.device("cpu"))
    assert torch.get_num_threads() == 3


def test_a_number_of_the_user_stays(monkeypatch, threads):
    """Also for a process under one that was started with it, as those of the tests are."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    torch.set_num_threads(1)
    use_share_of_cores(torch.device("cpu"))
    assert torch.get_num_threads() == 1


FAULTS = """
import resource
import torch
from hfgen.core.device import keep_freed_memory
def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.empty(2**26, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults(10)
keep_freed_memory()
faults(30)  # the first ones leave holes that are a few bytes too small
print(first, faults(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize("tuned", [{}, {"MALLOC_TOP_PAD_": "0"}])
def test_freed_memory_is_kept_where_the_user_has_not_tuned_the_allocator(tuned):
    """Ten buffers of 64 MiB one after the other: the system clears their pages for each of them, or for none."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS]
    told = subprocess.run(command, env=plain | tuned, check=True, capture_output=True, text=True).stdout
    first, kept = map(int, told.split())
    # huge pages, where the system gives them, are 2 MiB: 32 a buffer
    assert first >= 10 * 32
    assert (kept < 32) == (not tuned)
