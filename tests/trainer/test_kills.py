"""Wherever a training is killed, the same command run again leaves the files of one that was never interrupted.

By default at every few of the operations on files; with HFGEN_TEST_ALL_KILLS=1 at each of them.
"""

import json
import os
import re
import signal
import sys
import traceback
from functools import cache

import pytest
from accelerate.state import AcceleratorState, GradientState

from hfgen.cli.parser import parse_training_config
from hfgen.core.files import write_text
from hfgen.data.digits import embedded_digits
from hfgen.data.sources import load_source
from hfgen.trainer.train import train

EVERY = 1 if os.environ.get("HFGEN_TEST_ALL_KILLS") == "1" else 10
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NETWORKS = {
    "ddpm": {
        "block_out_channels": [4],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "add_attention": False,
        "dropout": 0.1,
    },
    "vae": {"_class_name": "MLPVAE", "hidden_sizes": [8], "latent_size": 2, "likelihood": "bernoulli"},
}
FLAGS = {"ddpm": {"ddpm_num_steps": 2, "ddpm_num_inference_steps": 2}, "vae": {}}


class Killer:
    """Kills its process at the n-th change of a folder's files; without one it counts them."""

    def __init__(self):
        self.folder, self.at, self.count = None, None, 0
        sys.addaudithook(self)

    def watch(self, folder, at=None):
        self.folder, self.at, self.count = str(folder), at, 0

    def __call__(self, event, args):
        if self.folder is None or not (event in CHANGES or (event == "open" and isinstance(args[2], int))):
            return
        if event == "open" and not args[2] & WRITING:
            return
        if not isinstance(args[0], int) and (self.folder in (name := os.fsdecode(args[0])) or self._inside(name, args)):
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1

    def _inside(self, name, args):
        """Whether a name below an open folder, as rmtree has it, is in ours."""
        place = args[-1] if isinstance(args[-1], int) and args[-1] >= 0 and not os.path.isabs(name) else None
        link = f"/proc/self/fd/{place}"
        return place is not None and os.path.islink(link) and self.folder in os.readlink(link)


@pytest.fixture(scope="module")
def killer():
    killer = Killer()
    yield killer
    killer.folder = None


def drawn(figure, path):
    """What a figure shows, in place of its picture, whose layout takes half of such a training's time."""
    shown = [
        [axes.get_ylabel(), *(line.get_xydata().tolist() for line in axes.lines)]
        + [points.get_offsets().tolist() for points in axes.collections]
        for axes in figure.axes
    ]
    write_text(path, json.dumps(shown))


@pytest.fixture(params=list(NETWORKS))
def training(request, tmp_path, monkeypatch):
    """A training of 4 steps over 2 epochs with everything that one writes, as a function of its output folder."""
    kind = request.param
    monkeypatch.setattr("hfgen.core.history.save_figure", drawn)
    monkeypatch.setattr("hfgen.families.vae.figures.save_figure", drawn)
    monkeypatch.setattr("hfgen.data.sources.embedded_digits", cache(embedded_digits))
    load_source("digits")  # once for all: it takes a quarter of the rest
    (tmp_path / "network.json").write_text(json.dumps(NETWORKS[kind]))
    flags = {
        "dataset_name": "digits",
        "validation_split": "test",
        "max_train_samples": 8,
        "model_config_name_or_path": tmp_path / "network.json",
        "train_batch_size": 4,
        "eval_batch_size": 64,
        "num_epochs": 2,
        "lr_warmup_steps": 1,
        "checkpointing_steps": 1,
        "checkpoints_total_limit": 2,
        "logging_steps": 3,  # in no step with the checkpoints and the epochs
        "save_images_epochs": 1,
        "save_model_epochs": 1,
        "logger": "none",
        "resume_from_checkpoint": "latest",
        **FLAGS[kind],
    }

    def run(out):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        words = [f"--{name}={value}" for name, value in {**flags, "output_dir": out}.items()]
        train(parse_training_config(kind, words))

    return run


@pytest.fixture
def forked(tmp_path):
    """Run something in a process of its own, where all is imported already; returns the signal that ended it, 0 for none."""
    log = tmp_path / "log"

    def run(action):
        child = os.fork()
        if child == 0:
            told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(told, 1)
            os.dup2(told, 2)
            try:
                action()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, log.read_text()
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    return run


def contents(folder):
    """All files without times and rates, but for the lock, which says nothing when nobody holds it."""
    return {p.relative_to(folder).as_posix(): _timeless(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _timeless(path):
    if path.name in ("training.json", "trainer_state.json", "digests.json"):
        masked = {"seconds", "cpu_seconds", "trainer_state.json"}  # the latter's digest, as it holds a time
        return [item for item in json.loads(path.read_text()).items() if item[0] not in masked]
    if path.name == "history.jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [[item for item in row.items() if item[0] != "images_per_second"] for row in rows]
    if path.name == "README.md":
        return re.sub(r"[\d.]+ (seconds|minutes|hours|s|min|h)\b", "", path.read_text())
    return path.read_bytes()


@pytest.mark.slow
def test_every_file_is_that_of_a_training_never_interrupted(training, forked, killer, tmp_path, capsys):
    whole = tmp_path / "one" / "out"

    def uninterrupted():
        killer.watch(whole)
        training(whole)
        (tmp_path / "count").write_text(str(killer.count))

    assert forked(uninterrupted) == 0
    expected, count = contents(whole), int((tmp_path / "count").read_text())
    assert {"history.jsonl", "training.json", "README.md", "loss.png", "samples.png"} <= expected.keys()
    assert [name for name in expected if name.startswith("samples/")] == [
        "samples/step-0000002.png",
        "samples/step-0000004.png",
    ]
    tried = resumed = equal = 0
    for point in range(0, count, EVERY):
        out = tmp_path / f"{point}" / "out"

        def killed(point=point, out=out):
            killer.watch(out, point)
            training(out)

        tried += forked(killed) == signal.SIGKILL
        resumed += forked(lambda out=out: training(out)) == 0
        found = contents(out)
        differing = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
        assert not differing, f"killed at operation {point} of {count}"
        equal += 1
    with capsys.disabled():
        print(f"\nkilled at {tried} of {count} operations on files, {resumed} resumed, {equal} with every file equal")
    assert tried == resumed == equal == len(range(0, count, EVERY))
