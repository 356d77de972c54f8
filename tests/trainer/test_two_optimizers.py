"""Two optimizers have their turns on the same rows, resume as if never interrupted, and share their batch out."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import two_optimizers
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from two_optimizers import SIZE, Networks

from hfgen.core.history import read_history
from hfgen.core.random import Stream, epoch_order, seeded


@pytest.fixture
def play(tmp_path):
    def run(name, **changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return two_optimizers.play(tmp_path / name, **changes)

    return run


def weights(folder):
    return load_file(folder / "networks.safetensors")


def by_hand(steps):
    """Both networks after some steps on one batch of 8 rows each, by torch alone."""
    torch.manual_seed(0)
    data = torch.randn(64, SIZE, generator=torch.Generator().manual_seed(1)) + 2
    networks = Networks()
    settings = {"lr": 0.05, "betas": (0.95, 0.999), "weight_decay": 1e-6}
    critic = torch.optim.AdamW(networks.critic.parameters(), **settings)
    generator = torch.optim.AdamW(networks.generator.parameters(), **settings)
    for step in range(steps):
        rows = epoch_order(0, step // 6, 48)[step % 6 * 8 :][:8]
        noise = torch.randn(32, SIZE, generator=seeded("cpu", 0, Stream.TRAINING_NOISE, step, 0))[:8]
        made = networks.generator(noise).detach()
        logits = [networks.critic(part)[:, 0] for part in (made, data[rows])]
        (F.softplus(logits[0]) + F.softplus(-logits[1])).mean().backward()
        torch.nn.utils.clip_grad_norm_(networks.critic.parameters(), 1.0)
        critic.step()
        F.softplus(-networks.critic(networks.generator(noise))[:, 0]).mean().backward()
        torch.nn.utils.clip_grad_norm_(networks.generator.parameters(), 1.0)
        generator.step()
        networks.zero_grad()
    return networks.state_dict()


def test_each_has_its_turn_on_the_same_rows(play):
    trainer = play("out")
    expected = by_hand(12)
    for name, value in weights(trainer.output_dir).items():
        # a dozen steps of fused and plain AdamW in float32
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)
    assert trainer.task.turns.count.tolist() == [12, 12]
    readings = [row for row in read_history(trainer.output_dir / "history.jsonl") if "train_loss" in row]
    assert len(readings) == 12
    for row in readings:
        assert row["train_loss"] == pytest.approx(row["train_critic"] + row["train_generator"], rel=1e-5)


def test_resuming_gives_the_same_bits(play):
    whole = play("whole").output_dir
    resumed = play("resumed", resume_from_checkpoint=str(whole / "checkpoint-8"))
    assert all(value.equal(weights(resumed.output_dir)[name]) for name, value in weights(whole).items())
    assert resumed.task.turns.count.tolist() == [12, 12]
    names = {path.name for path in (whole / "checkpoint-8").iterdir()}
    tensors = {"model", "optimizer-critic", "optimizer-generator", "processes", "state-turns"}
    assert names == {"digests.json", "trainer_state.json", *(f"{name}.safetensors" for name in tensors)}


def test_a_batch_in_parts_trains_as_a_whole_one(play):
    whole, parts = play("whole"), play("parts", train_batch_size=2, gradient_accumulation_steps=4)
    for name, value in weights(whole.output_dir).items():
        # sums over 8 rows in another order
        torch.testing.assert_close(weights(parts.output_dir)[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(play, tmp_path):
    whole = play("whole")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        two_optimizers.__file__,
    ]
    settings = {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    done = subprocess.run(
        [*command, str(tmp_path / "two"), json.dumps(settings)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for name, value in weights(whole.output_dir).items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, atol=1e-5, rtol=1e-4)
