"""How a batch is shared out changes nothing but float rounding."""

import sys

import pytest
from diffusers import UNet2DModel

from hfgen.core.history import read_history

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def readings(out):
    return [row for row in read_history(out / "history.jsonl") if "train_loss" in row]


def assert_same_run(one, other):
    """Sums over 16 images in another order differ by float32 rounding (6e-8 relative), which 12 steps of Adam, whose
    first updates are the sign of the gradient, grow to some 1e-5; other images or noise would change losses by 1e-2."""
    a, b = readings(one), readings(other)
    assert [row["step"] for row in a] == [row["step"] for row in b]
    assert [row["learning_rate"] for row in a] == [row["learning_rate"] for row in b]
    assert [row["train_loss"] for row in a] == pytest.approx([row["train_loss"] for row in b], abs=1e-4)
    last = [
        [row["validation_loss"] for row in read_history(out / "history.jsonl") if "epoch" in row]
        for out in (one, other)
    ]
    assert last[0] == pytest.approx(last[1], abs=1e-4)


@pytest.fixture
def one_process(train, tmp_path):
    return train(output_dir=tmp_path / "one", random_flip=True)


@pytest.mark.slow
def test_accumulation_sees_the_batches_of_one_large_batch(train, one_process, tmp_path):
    out = train(output_dir=tmp_path / "two", train_batch_size=4, gradient_accumulation_steps=4, random_flip=True)
    assert_same_run(one_process, out)


def test_two_processes_see_the_batches_of_one(script, one_process, tmp_path):
    out = tmp_path / "two"
    process = script(TORCHRUN, output_dir=out, train_batch_size=4, gradient_accumulation_steps=2, random_flip=True)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_same_run(one_process, out)
    assert UNet2DModel.from_pretrained(out, subfolder="unet").config.sample_size == 8


def test_two_processes_resume_from_the_checkpoint_of_one(script, one_process, tmp_path):
    out = tmp_path / "two"
    flags = {"train_batch_size": 8, "random_flip": True, "resume_from_checkpoint": one_process / "checkpoint-4"}
    process = script(TORCHRUN, output_dir=out, **flags)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    tail = [row["train_loss"] for row in readings(one_process) if row["step"] > 4]
    assert [row["train_loss"] for row in readings(out)] == pytest.approx(tail, abs=1e-4)


def test_losses_before_and_after_a_checkpoint_weigh_the_same_however_a_batch_is_shared_out(train, tmp_path):
    """A reading over steps 1 to 6, of which four were taken before the checkpoint."""
    one = train(output_dir=tmp_path / "one", logging_steps=6)
    shared = {"train_batch_size": 4, "gradient_accumulation_steps": 4}
    two = train(output_dir=tmp_path / "two", logging_steps=6, resume_from_checkpoint=one / "checkpoint-4", **shared)
    assert [row["train_loss"] for row in readings(two)] == pytest.approx(
        [row["train_loss"] for row in readings(one)], abs=1e-4
    )


@pytest.mark.slow
def test_streamed_images_train_as_those_in_memory_do(train, one_process, tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.data.loading.MEMORY_SHARE", 0.0)
    assert_same_run(one_process, train(output_dir=tmp_path / "streamed", random_flip=True))
