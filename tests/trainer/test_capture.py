"""What is captured of a step is all of it: what a GPU would repeat is repeated here, operation by operation, without the host's code."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hfgen.core.history import read_history
from hfgen.trainer import capture
from hfgen.trainer.ema import WeightAverage

aten = torch.ops.aten
# what a CUDA graph cannot hold: the host would wait for values of the device
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default}


class Tape(TorchDispatchMode):
    """Records the operations of a step on their very tensors, as a CUDA graph does kernels on their memory, and repeats them."""

    def warm_up(self, step):
        step()

    def record(self, step):
        self.calls, self.repeats = [], -1  # recording them here has done them
        with self:
            step()
        return self.repeat

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in WAITS
        made = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, made))
        return made

    @torch.no_grad()
    def repeat(self):
        self.repeats += 1
        if self.repeats == 0:
            return
        anew = {}

        def now(value):
            return anew.get(id(value), value)

        for function, args, kwargs, made in self.calls:
            result = function(*tree_map(now, args), **tree_map(now, kwargs))
            anew |= {id(old): new for old, new in zip(tree_leaves(made), tree_leaves(result), strict=True)}


@pytest.fixture
def tape(monkeypatch):
    """Steps are captured by it."""
    one = Tape()
    monkeypatch.setattr(capture, "why_not", lambda *_: None)
    monkeypatch.setattr(capture, "CudaGraphs", lambda: one)
    return one


def tensors(folder, name):
    return load_file(folder / name)


@pytest.mark.slow
def test_a_captured_training_is_the_one_that_is_not(train, tape, tmp_path, capsys):
    """The learning rate and the decay of the average change at each step, importance times learn in it. Rounding differs: the
    products of the average are rounded by themselves, and AdamW gets its rate as a float32."""
    flags = {"time_sampling": "importance", "ddpm_num_steps": 20, "num_epochs": 2, "save_images_epochs": 0}
    plain = train(output_dir=tmp_path / "plain", **flags)
    out = train(output_dir=tmp_path / "captured", capture=True, **flags)
    assert tape.repeats == 4
    assert "not captured" not in capsys.readouterr().out
    for name in ("model.safetensors", "ema.safetensors", "state-times.safetensors"):
        for key, value in tensors(out / "checkpoint-8", name).items():
            torch.testing.assert_close(value, tensors(plain / "checkpoint-8", name)[key], atol=2e-5, rtol=1e-4)
    readings = [
        [row for row in read_history(folder / "history.jsonl") if "train_loss" in row] for folder in (plain, out)
    ]
    assert [row["train_loss"] for row in readings[1]] == pytest.approx(
        [row["train_loss"] for row in readings[0]], rel=1e-4
    )
    assert [row["learning_rate"] for row in readings[1]] == pytest.approx([row["learning_rate"] for row in readings[0]])
    groups = [
        json.loads((folder / "checkpoint-8" / "trainer_state.json").read_text())["optimizers"]["model"]["schedule"]
        for folder in (plain, out)
    ]
    assert groups[0]["_last_lr"] == pytest.approx(groups[1]["_last_lr"])


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: x == 0,
        lambda x: x >= 3,
        float,
        bool,
        len,
        lambda x: x.to("cpu"),
        lambda x: x[0],
    ],
)
def test_what_only_the_host_knows_is_not_used(use):
    with pytest.raises(capture.OnlyOnHost, match="depends on the step's number"):
        use(capture.Unread("step's number"))


@pytest.mark.slow
def test_a_loss_that_asks_the_host_is_not_captured(train, tape, tmp_path, capsys, monkeypatch):
    from hfgen.families.ddpm.task import DDPMTask

    loss = DDPMTask.loss

    def asking(self, model, batch, optimizer):
        return {"loss": loss(self, model, batch, optimizer)["loss"] * (1 + batch.step / 10)}

    monkeypatch.setattr(DDPMTask, "loss", asking)
    out = train(output_dir=tmp_path / "captured", capture=True, max_train_steps=4)
    assert "steps are not captured, as the loss depends on the" in capsys.readouterr().out
    plain = train(output_dir=tmp_path / "plain", max_train_steps=4)
    for name in ("model.safetensors", "ema.safetensors"):
        one, other = tensors(out / "checkpoint-4", name), tensors(plain / "checkpoint-4", name)
        assert all(value.equal(other[key]) for key, value in one.items())


def a_step(**changes):
    accelerator = SimpleNamespace(device=torch.device("cuda"), num_processes=1, scaler=None)
    step = SimpleNamespace(accelerator=accelerator, turns=[None])
    for name, value in changes.items():
        setattr(step if name == "turns" else accelerator, name, value)
    return step


@pytest.mark.parametrize(
    ("changes", "micro_batches", "reason"),
    [
        ({}, 1, None),
        ({"device": torch.device("cpu")}, 1, "this is cpu"),
        ({"num_processes": 2}, 1, "several processes"),
        ({}, 2, "several micro-batches"),
        ({"turns": [None, None]}, 1, "several optimizers"),
        ({"scaler": object()}, 1, "fp16"),
    ],
)
def test_what_cannot_be_captured_is_told(changes, micro_batches, reason):
    step, told = a_step(**changes), []
    taken = capture.captured(step, micro_batches, told.append)
    assert (taken is step) == (reason is not None)
    assert [reason in line for line in told] == ([] if reason is None else [True])


@pytest.mark.parametrize("max_decay", [0.5, 0.9999])
def test_an_average_counted_on_the_device_is_that_of_diffusers(max_decay):
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    averages = [WeightAverage(module, max_decay, 1.0, 0.75) for _ in range(2)]
    for step in range(30):
        if step == 4:
            averages[1].count_on(torch.device("cpu"))
        for parameter in module.parameters():
            parameter.data += torch.randn(parameter.shape)
        for average in averages:
            average.update()
    for name, value in averages[0].tensors().items():
        # 30 updates in float32, of which the factor and the product are rounded one by one
        torch.testing.assert_close(averages[1].tensors()[name], value, atol=1e-6, rtol=1e-5)
    averages[1].count_on_host()
    assert averages[1].average.optimization_step == 30


@pytest.mark.slow
def test_steps_of_a_vae_are_captured(train_a_vae, tape, tmp_path):
    plain = train_a_vae(output_dir=tmp_path / "plain")
    out = train_a_vae(output_dir=tmp_path / "captured", capture=True)
    assert tape.repeats > 0
    losses = [
        [row["train_loss"] for row in read_history(folder / "history.jsonl") if "train_loss" in row]
        for folder in (plain, out)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
