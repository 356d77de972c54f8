"""A network in shards trains as a whole one, goes on in other numbers of processes, and is saved as a whole one."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMPipeline, UNet2DModel
from sharded_training import killed_after, store_and_fill, together, train_sharded
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

from hfgen.cli.parser import parse_training_config
from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.trainer.checkpoints import check_whole
from hfgen.trainer.setup import check_sharding
from hfgen.trainer.sharding import Sharded
from hfgen.trainer.train import train as train_from

UNET = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
HALF_WAY = "checkpoint-3"


def whole(words):
    """Train in this process, with the network whole."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    train_from(parse_training_config("ddpm", words))


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    """Flags of 6 steps of 12 images over 2 epochs. The held-out images are 3 batches, which 2 processes cannot share evenly."""
    folder = tmp_path_factory.mktemp("sharding")
    (folder / "unet.json").write_text(json.dumps(UNET))
    flags = {
        "dataset_name": "digits",
        "validation_split": "test",
        "max_train_samples": 36,
        "model_config_name_or_path": folder / "unet.json",
        "eval_batch_size": 100,
        "num_epochs": 2,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 3,
        "checkpointing_steps": 3,
        "logging_steps": 1,
        "save_images_epochs": 1,
        "ddpm_num_inference_steps": 2,
        "logger": "none",
    }

    def make(name, batch, **changes):
        values = {**flags, "output_dir": folder / name, "train_batch_size": batch, **changes}
        return folder / name, [f"--{key}={value}" for key, value in values.items()]

    return make


@pytest.fixture(scope="module")
def in_two(sharing):
    out, flags = sharing("two", 6)
    together(2, partial(train_sharded, flags))
    return out


@pytest.fixture(scope="module")
def in_one(sharing):
    out, flags = sharing("one", 12)
    whole(flags)
    return out


def assert_same(one, other):
    """Sums over 12 images in another order, which steps of Adam grow; other images or weights would change losses by 1e-2."""
    for key in ("train_loss", "validation_loss"):
        found = [{r["step"]: r[key] for r in read_history(out / "history.jsonl") if key in r} for out in (one, other)]
        assert found[1]
        assert all(value == pytest.approx(found[0][step], abs=1e-4) for step, value in found[1].items())
    # the averaged weights
    networks = [UNet2DModel.from_pretrained(out, subfolder="unet").state_dict() for out in (one, other)]
    assert all((value - networks[1][name]).abs().max() < 1e-4 for name, value in networks[0].items())


@pytest.mark.slow
def test_shards_train_as_a_whole_does(in_one, in_two):
    assert_same(in_one, in_two)
    pipeline = DDPMPipeline.from_pretrained(in_two)
    assert type(pipeline.unet) is UNet2DModel
    assert (in_two / "samples" / "step-0000006.png").is_file()
    assert (in_two / "README.md").is_file()


@pytest.mark.slow
def test_a_checkpoint_in_shards_is_whole_and_holds_no_pickle(in_two):
    check_whole(in_two / HALF_WAY)
    names = {path.name for path in (in_two / HALF_WAY).iterdir()}
    shards = {f"shard-0000{i}-model-00001-of-00001.safetensors" for i in (1, 2)}
    assert names == {"digests.json", "trainer_state.json", "processes.safetensors", *shards}


@pytest.mark.slow
def test_three_processes_go_on_from_the_shards_of_two(in_two, sharing):
    out, flags = sharing("three", 4, resume_from_checkpoint=in_two / HALF_WAY)
    together(3, partial(train_sharded, flags))
    assert_same(in_two, out)


@pytest.mark.slow
def test_when_one_is_killed_the_other_tells_and_the_last_checkpoint_is_whole(in_two, sharing, tmp_path):
    out, flags = sharing("killed", 6)
    together(2, partial(killed_after, 5, flags, tmp_path / "told.json"), killed=1)
    seconds, told = json.loads((tmp_path / "told.json").read_text())
    assert seconds < 60
    assert told.startswith("another process of this work has ended")
    assert len(told.splitlines()) == 1
    check_whole(out / HALF_WAY)
    assert list(out.glob("checkpoint-*")) == [out / HALF_WAY]
    together(2, partial(train_sharded, [*flags, "--resume_from_checkpoint=latest"]))
    assert_same(in_two, out)


@pytest.mark.slow
def test_a_whole_network_goes_on_from_shards(in_two, sharing):
    out, flags = sharing("whole", 12, resume_from_checkpoint=in_two / HALF_WAY)
    whole(flags)
    assert_same(in_two, out)


@pytest.mark.slow
def test_parts_are_stored_and_filled(tmp_path):
    together(2, partial(store_and_fill, tmp_path))


def test_mixed_precision_is_that_of_a_whole_network():
    """FSDP2's own would give the network float32 inputs in bf16."""
    plugin = SimpleNamespace(auto_wrap_policy=None, mixed_precision_policy="of FSDP2")
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        is_main_process=False,
        mixed_precision="bf16",
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    torch.manual_seed(0)
    module, x = torch.nn.Linear(64, 4), torch.randn(8, 64)
    exact = module(x)
    Sharded(accelerator, module).place(torch.contiguous_format)
    for _ in range(2):
        found = module(x)
        assert found.dtype == torch.float32
        assert 0 < (found - exact).abs().max() < 0.05  # of 64 products of 8 bits each
    assert plugin.mixed_precision_policy is None


@pytest.mark.parametrize(("smallest", "classes"), [(100, ["Block"]), (1000, [])])
def test_blocks_are_sharded_and_neither_lists_nor_layers(smallest, classes):
    class Block(torch.nn.Sequential):
        pass

    plugin = SimpleNamespace(auto_wrap_policy=size_based_auto_wrap_policy, min_num_params=smallest)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), is_main_process=False)
    module = torch.nn.Sequential(torch.nn.ModuleList([Block(torch.nn.Linear(10, 20))]), torch.nn.Linear(20, 20))
    sharded = Sharded(accelerator, module)
    assert plugin.transformer_cls_names_to_wrap == classes
    with pytest.raises(HfgenError, match="no part of this network is sharded, of which the largest has 420 parameters"):
        sharded.check()


def test_the_whole_copy_shares_what_is_frozen():
    class Told(torch.nn.Linear):
        frozen = ()

    module, reader = Told(2, 2), torch.nn.Linear(2, 2)
    module.frozen = (reader,)
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=SimpleNamespace(auto_wrap_policy=None)), is_main_process=True
    )
    made = Sharded(accelerator, module).copy
    assert made.frozen[0] is reader
    assert made.weight.equal(module.weight)
    assert made.weight is not module.weight


ASKED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_MIN_NUM_PARAMS": "1000",
}


@pytest.mark.parametrize(
    ("changes", "on_gpu", "told"),
    [
        ({}, False, "there is none here"),
        ({"FSDP_VERSION": "1"}, True, "--fsdp_version 2"),
        ({"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}, True, "--fsdp_min_num_params 1000000"),
        ({"FSDP_MIN_NUM_PARAMS": "0"}, True, "--fsdp_min_num_params 1000000"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, True, "--fsdp_offload_params is not supported"),
    ],
)
def test_shards_that_cannot_be_are_refused(changes, on_gpu, told):
    with pytest.raises(HfgenError, match=told):
        check_sharding(ASKED | changes, on_gpu=on_gpu)


def test_shards_that_can_be_and_none_are_not():
    check_sharding(ASKED, on_gpu=True)
    check_sharding({"FSDP_VERSION": "1"}, on_gpu=False)


def test_shards_are_refused_before_anything_is_written(train, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(HfgenError, match="--use_fsdp"):
        train(output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
