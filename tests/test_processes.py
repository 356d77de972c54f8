"""Several processes share images and evaluations: what comes out is what one alone makes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from process_group import UNITS, run

from hfgen.cli.main import main
from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

WORKER = Path(__file__).with_name("process_group.py")
COUNT = 3
LOOK_SECONDS, MINUTE = 0.05, 60
PORT = "29541"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hfgen"]
# beside the times and the device, of which the threads depend on the number of processes
NOT_THE_SAME = {"seconds", "seconds_sampling", "seconds_measuring", "run_metadata", "seconds_per_sample"}

pytestmark = pytest.mark.slow


def save_models(folder):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    scheduler = DDPMScheduler(10, beta_start=0.01, beta_end=0.5)
    UnconditionalDiffusionPipeline(unet, scheduler).save_pretrained(folder / "diffusion")
    vae = MLPVAE(sample_size=8, latent_size=2, hidden_sizes=(8,), likelihood="discretized_logistic")
    VAEPipeline(vae).save_pretrained(folder / "vae")
    return folder


def settled(value):
    """What JSON values of results say that does not change from run to run."""
    if isinstance(value, dict):
        return {key: settled(inner) for key, inner in value.items() if key not in NOT_THE_SAME}
    return [settled(inner) for inner in value] if isinstance(value, list) else value


def pictures(folder):
    return {
        path.relative_to(folder): path.read_bytes() for suffix in ("png", "gif") for path in folder.rglob(f"*.{suffix}")
    }


def started(words, **environment):
    values = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(words, env=values, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of one process, and what it found."""
    folder = save_models(tmp_path_factory.mktemp("alone"))
    return folder, json.loads(json.dumps(run(folder)))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The folder of three, what each found, and what each printed."""
    folder = save_models(tmp_path_factory.mktemp("three"))
    shared = {"WORLD_SIZE": str(COUNT), "LOCAL_WORLD_SIZE": str(COUNT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT}
    words = [sys.executable, str(WORKER), str(folder)]
    processes = [started(words, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(COUNT)]
    try:
        printed = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * COUNT, printed
    found = [json.loads((folder / f"process-{rank}.json").read_text()) for rank in range(COUNT)]
    return folder, found, printed


def test_pictures_are_those_of_one_process_to_the_byte(alone, three):
    expected, made = pictures(alone[0]), pictures(three[0])
    assert len([path for path in expected if path.parent.name == "single"]) == 11
    assert expected.keys() == made.keys()
    assert [str(path) for path in expected if expected[path] != made[path]] == []


def test_results_are_those_of_one_process_to_the_last_bit(alone, three):
    """Sums are taken in the order of the batches, whoever has done them."""
    exact = [settled(json.loads((place / "exact.json").read_text())) for place in (alone[0], three[0])]
    assert exact[0] == exact[1]
    for found in three[1]:
        assert json.dumps(settled(found["compared"])) == json.dumps(settled(alone[1]["compared"]))  # nan is not nan
        assert found["bounds"] == alone[1]["bounds"]
    assert sorted(path.name for path in three[0].iterdir()) == sorted(
        [*(path.name for path in alone[0].iterdir()), *(f"process-{rank}.json" for rank in range(COUNT))]
    )


def test_units_are_shared_out_and_known_to_all(alone, three):
    units = [[unit, [unit, [[0, 0], [1, 1]]]] for unit in range(UNITS)]
    for rank, found in enumerate(three[1]):
        rules = found["rules"]
        assert rules["found"] == units
        assert rules["own"] == [*range(rank, UNITS, COUNT), ["good", "bad", "good"][rank]]
        assert (rules["first"], rules["kept"]) == (0, 0)
        assert rules["told"] == three[1][0]["rules"]["told"]
        assert "no such unit" in rules["told"][0]
        assert "ZeroDivisionError" in rules["told"][1]


def test_one_prints_and_tells(alone, three):
    """The last command line fails on all, and one of them says why."""
    _, found, printed = three
    assert [each["statuses"] for each in found] == [alone[1]["statuses"]] * COUNT == [[0, 0, 0, 1]] * COUNT
    assert [bool(out) for out, _ in printed] == [True, False, False]
    errors = [[line for line in err.splitlines() if "hfgen: error" in line] for _, err in printed]
    assert [len(lines) for lines in errors] == [1, 0, 0]
    assert "resolution=9" in errors[0][0]
    shown = [
        [bar for bar in ("denoising", "decoding", "features", "bound", "evaluating") if bar in err]
        for _, err in printed
    ]
    assert [len(bars) for bars in shown] == [5, 0, 0]


def test_when_one_is_killed_the_other_tells_and_the_rest_is_drawn_by_one(tmp_path):
    models, out, whole = save_models(tmp_path / "models"), tmp_path / "out", tmp_path / "whole"
    words = ["sample", str(models / "diffusion"), "--num_images", "120", "--batch_size", "2", "--out"]
    process = started([*TORCHRUN, *words, str(out)])
    while not list(out.glob("*.png")) and process.poll() is None:
        time.sleep(LOOK_SECONDS)
    workers = [child for child in psutil.Process(process.pid).children() if "hfgen" in child.cmdline()]
    os.kill(max(child.pid for child in workers), signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=300)
    assert time.monotonic() - killed < MINUTE
    assert process.returncode == 1
    assert len([line for line in err.splitlines() if line.startswith("hfgen: ")]) == 1, err
    assert 0 < len(list(out.glob("*.png"))) < 120
    assert list(out.glob("*.part")) == []
    assert main([*words, str(out)]) == main([*words, str(whole)]) == 0
    assert pictures(out) == pictures(whole)
