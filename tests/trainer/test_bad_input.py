"""Bad input ends with one line that names the value and the way out, and leaves what was there."""

import resource
import signal

import pytest
from safetensors.torch import load_file

from hfgen.core.errors import HfgenError
from hfgen.trainer.checkpoints import checkpoints
from hfgen.trainer.manifest import HIDDEN


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"resolution": 7}, "resolution=7 cannot be halved 1 times.*--resolution 8"),
        ({"model_config_name_or_path": "nonsense.json"}, "nonsense.json"),
        ({"image_column": "picture"}, r"image_column='picture' is not in the dataset; its columns are image .*label"),
        ({"image_column": "label"}, "image_column='label' holds no images"),
        ({"label_column": "digit"}, "label_column='digit'.*image, label"),
        ({"train_split": "training"}, "train_split='training' is not in the dataset: it has train, test"),
        ({"train_data_dir": "no/such/folder"}, "train_data_dir='no/such/folder' is no folder"),
        (
            {"ddpm_beta_schedule": "linear", "ddpm_num_steps": 10, "ddpm_num_inference_steps": 10},
            "num_train_timesteps=10.*more than 20 steps",
        ),
        (
            {"ddpm_num_steps": 100, "ddpm_num_inference_steps": 1000},
            "ddpm_num_inference_steps=1000 is more than ddpm_num_steps=100",
        ),
        ({"train_batch_size": 65}, "a batch of 65 .* more than the 64 training images: lower --train_batch_size"),
        ({"mixed_precision": "fp16"}, "fp16.*needs a GPU"),
        ({"resume_from_checkpoint": "elsewhere"}, "resume_from_checkpoint='elsewhere' is no complete checkpoint"),
    ],
)
def test_unusable_value_is_named_and_nothing_is_written(train, tiny_flags, flags, message):
    with pytest.raises(HfgenError, match=message):
        train(**flags)
    assert not tiny_flags["output_dir"].exists()


@pytest.mark.slow
@pytest.mark.slow
def test_overwrite_with_bad_input_keeps_the_earlier_training(train):
    out = train()
    before = contents(out)
    with pytest.raises(HfgenError):
        train(overwrite_output_dir=True, resolution=7)
    assert contents(out) == before


@pytest.mark.slow
def test_overwrite_replaces_the_earlier_training(train):
    out = train()
    train(overwrite_output_dir=True, checkpointing_steps=12)
    assert [path.name for path in checkpoints(out)] == ["checkpoint-12"]


def test_unknown_dataset_ends_the_script_with_one_line(ours, words, repository, tiny_flags):
    line = ours.script(repository / "training" / "train_ddpm.py", *words(dataset_name="nobody/nothing")).refusal()
    assert line.startswith("train_ddpm.py: error: dataset 'nobody/nothing' cannot be loaded")
    assert "--dataset_name digits" in line
    assert not tiny_flags["output_dir"].exists()


def test_loss_that_is_not_finite_keeps_the_last_good_checkpoint(train, tiny_flags):
    with pytest.raises(HfgenError, match=r"not finite; checkpoint-\d+ is kept"):
        train(checkpointing_steps=1, learning_rate=1e25, lr_warmup_steps=0, max_grad_norm=0, adam_epsilon=1e-30)
    kept = checkpoints(tiny_flags["output_dir"])
    assert kept
    assert all(value.isfinite().all() for value in load_file(kept[-1] / "model.safetensors").values())
    assert not (tiny_flags["output_dir"] / "model_index.json").exists()


def test_disk_that_is_full_keeps_the_previous_checkpoint(train, tiny_flags):
    """A limit on file size makes every write of a large file fail, as a full disk does."""
    out = train()
    before = contents(out / "checkpoint-4")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, limits[1])
    )  # the pipeline's 70 kB fit, the optimizer's 140 do not
    try:
        with pytest.raises(HfgenError, match=r"step 8 cannot be written.*checkpoint-\d+ is kept: make room"):
            train(resume_from_checkpoint=out / "checkpoint-4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(out / "checkpoint-4") == before
    assert sorted(path.name for path in (out / HIDDEN).iterdir()) == ["lock", "manifest.json"]
    train(resume_from_checkpoint="latest")
