"""A training of a stream: it goes on where it was, and processes share it out."""

import os
import signal
import sys
from multiprocessing import active_children

import pytest
from safetensors.torch import load_file

from hfgen.configs.evaluation import FeatureTrainingConfig
from hfgen.configs.training import DataConfig
from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.data.digits import embedded_digits
from hfgen.evaluation.train_features import train_features
from hfgen.results import TrainingRecord
from hfgen.trainer.checkpoints import check_same_run
from hfgen.trainer.loop import Trainer

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture
def flags(tmp_path):
    """A stream of 4 shards of 32 digits; 16 are held out, and a pass is 7 steps."""
    digits = embedded_digits()["train"].select(range(128))
    (tmp_path / "digits").mkdir()
    for i in range(4):
        digits.shard(4, i, contiguous=True).to_parquet(tmp_path / f"digits/train-{i:05}-of-00004.parquet")
    return {
        "dataset_name": tmp_path / "digits",
        "validation_split": None,
        "max_train_samples": None,
        "max_validation_samples": 16,
        "shuffle_buffer_size": 24,
        "streaming": True,
        "num_epochs": None,
        "epoch_steps": 5,
        "lr_scheduler": "constant",
        "checkpointing_steps": 3,
        "logging_steps": 1,
    }


def losses(out):
    return {row["step"]: row["train_loss"] for row in read_history(out / "history.jsonl") if "train_loss" in row}


def test_going_on_gives_the_weights_of_a_training_never_interrupted(train_a_vae, flags, tmp_path):
    """Step 3 falls within a pass, 9 within the second: rows in the buffer would be lost or seen twice by a stream begun anew."""
    whole = train_a_vae(**flags, max_train_steps=9, output_dir=tmp_path / "whole")
    assert not active_children()
    parts = tmp_path / "parts"
    train_a_vae(**flags, max_train_steps=3, output_dir=parts)
    train_a_vae(**flags, max_train_steps=9, output_dir=parts, resume_from_checkpoint="latest")
    for name in ("model.safetensors", "ema.safetensors", "optimizer-model.safetensors", "state-stream.safetensors"):
        one, other = (load_file(out / "checkpoint-9" / name) for out in (whole, parts))
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one), name
    record = TrainingRecord.load(whole / "training.json")
    assert record.cpu_seconds is None  # what its workers spend is not known
    assert (record.images, record.held_out) == (9 * 16, "the first 16 images of 'train'")
    assert sum("validation_loss" in row for row in read_history(whole / "history.jsonl")) == 2
    with pytest.raises(HfgenError, match="shuffle_buffer_size: 24 there, 32 here"):
        train_a_vae(
            **{**flags, "shuffle_buffer_size": 32}, max_train_steps=9, output_dir=parts, resume_from_checkpoint="latest"
        )


def test_a_number_of_processes_with_other_lanes_is_told(tmp_path):
    with pytest.raises(HfgenError, match=r"in 8 lanes, and these processes would in 6: start a number .* divides 8"):
        check_same_run(tmp_path, {"seed": 0, "lanes": 8}, {"seed": 0, "lanes": 6})


@pytest.mark.slow
def test_two_processes_go_on_from_the_checkpoint_of_one(train, script, flags, tmp_path):
    """The losses are those of one process but for float rounding, 1e-4 as without a stream; other images would change them by 1e-2."""
    one, two = train(**flags, max_train_steps=6, output_dir=tmp_path / "one"), tmp_path / "two"
    again = {**flags, "train_batch_size": 8, "resume_from_checkpoint": one / "checkpoint-3"}
    process = script(TORCHRUN, **again, max_train_steps=6, output_dir=two)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert losses(two) == pytest.approx({step: loss for step, loss in losses(one).items() if step > 3}, abs=1e-4)


def test_a_worker_that_dies_leaves_the_last_checkpoint(train_a_vae, flags, tmp_path, monkeypatch):
    advance = Trainer.advance

    def killing(self, micro_batches):
        advance(self, micro_batches)
        if self.step == 4:
            for child in active_children():
                os.kill(child.pid, signal.SIGKILL)

    monkeypatch.setattr(Trainer, "advance", killing)
    out = tmp_path / "out"
    with pytest.raises(HfgenError, match=r"a process that decodes images .* --resume_from_checkpoint latest"):
        train_a_vae(**flags, max_train_steps=40, output_dir=out)
    monkeypatch.undo()
    train_a_vae(**flags, max_train_steps=6, output_dir=out, resume_from_checkpoint="latest")
    assert max(losses(out)) == 6


def test_a_stream_without_a_number_of_steps(train_a_vae, flags, tmp_path):
    with pytest.raises(HfgenError, match="pass --max_train_steps"):
        train_a_vae(**flags, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_classifier_is_not_trained_on_a_stream(tmp_path):
    with pytest.raises(HfgenError, match="train-features looks at all images in each epoch"):
        train_features(FeatureTrainingConfig(output_dir=str(tmp_path / "out")), DataConfig(streaming=True))
