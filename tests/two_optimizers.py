"""A training of two networks against each other: a module that tests import, and a script that they start in two processes.

The critic's logits tell rows of data from those that the generator makes of noise; each has an optimizer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save_file

from hfgen.configs.training import OptimizationConfig, RunConfig, TrainingConfig
from hfgen.data.batch import RandomSpec
from hfgen.data.loading import ImagesInMemory
from hfgen.data.training_set import TrainingSet
from hfgen.trainer.loop import Trainer
from hfgen.trainer.setup import end_training

SIZE = 3


class Rows:
    """Rows of numbers as they are."""

    random = drawn = RandomSpec()
    memory_format = torch.contiguous_format

    def prepare(self, raw, random):
        return raw

    def augment(self, data, random):
        return data


class Networks(torch.nn.Module):
    """A generator and a critic behind one call, as a wrapper for several processes needs it."""

    def __init__(self):
        super().__init__()
        self.generator, self.critic = torch.nn.Linear(SIZE, SIZE), torch.nn.Linear(SIZE, 1)

    def forward(self, noise, data=None):
        made = self.generator(noise)
        return self.critic(made if data is None else torch.cat([made.detach(), data]))[:, 0]


class Turns:
    """How often each optimizer has had its turn."""

    def __init__(self):
        self.count = torch.zeros(2, dtype=torch.int64)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Game:
    """The loss of Goodfellow et al. 2014, with the generator's own one that does not saturate."""

    terms = ("loss", "critic", "generator")
    ylabel = "cross-entropy, nats"
    random = RandomSpec(normal={"noise": (SIZE,)})
    optimizers = ("critic", "generator")

    def __init__(self):
        self.turns, self.seen = Turns(), []
        self.states = {"turns": self.turns}

    def to(self, device):
        pass

    def parameters(self, module, optimizer):
        return list(getattr(module, optimizer).parameters())

    def loss(self, model, batch, optimizer):
        self.seen.append(optimizer)
        noise = batch.random["noise"]
        if optimizer == "generator":
            loss = F.softplus(-model(noise))
        else:
            made, real = model(noise, batch.data).chunk(2)
            loss = F.softplus(made) + F.softplus(-real)
        return {"loss": loss, optimizer: loss}

    def end_step(self):
        self.turns.count += torch.tensor([self.seen.count(name) > 0 for name in self.optimizers])
        self.seen.clear()

    def held_out_loss(self, model, batch):
        made, real = model(batch.random["noise"], batch.data).chunk(2)
        loss = F.softplus(made) + F.softplus(-real)
        return {"loss": loss, "critic": loss}

    def pipeline(self, module):
        return Saved(module)

    def preview(self, module):
        return torch.zeros(64, 1, 2, 2, dtype=torch.uint8)


class Saved:
    def __init__(self, module):
        self.module = module

    def save_pretrained(self, folder, safe_serialization):
        save_file(
            {k: v.contiguous() for k, v in self.module.state_dict().items()}, Path(folder) / "networks.safetensors"
        )


def play(output_dir, *, train_batch_size=8, gradient_accumulation_steps=1, max_train_steps=12, **run):
    """Train on 64 rows around (2, 2, 2); returns the trainer when it is done."""
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    data = torch.randn(64, SIZE, generator=torch.Generator().manual_seed(1)) + 2
    optimization = OptimizationConfig(
        train_batch_size=train_batch_size,
        eval_batch_size=16,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_train_steps=max_train_steps,
        learning_rate=0.05,
        lr_scheduler="constant",
        lr_warmup_steps=0,
        use_ema=False,
    )
    images = TrainingSet(
        train=ImagesInMemory(data[:48]), validation=ImagesInMemory(data[48:]), representation=Rows(), channels=1,
        resolution=1, held_out="", labels=None, train_labels=None, class_names=[],
    )  # fmt: skip
    trainer = Trainer(
        accelerator=Accelerator(
            cpu=True, gradient_accumulation_steps=gradient_accumulation_steps, step_scheduler_with_optimizer=False
        ),
        task=Game(),
        module=Networks(),
        images=images,
        config=TrainingConfig(
            family="game",
            model=None,
            optimization=optimization,
            run=RunConfig(output_dir=str(output_dir), checkpointing_steps=4, logging_steps=1, logger="none", **run),
        ),
        identity={},
    )
    trainer.fit()
    end_training(trainer.accelerator)
    return trainer


if __name__ == "__main__":
    play(Path(sys.argv[1]), **json.loads(sys.argv[2]))
