"""Two Pythons at a Hub server, one with hfgen and one without, and the fixtures that make them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import HubServer

WORKER = Path(__file__).parent / "hub" / "worker.py"
OURS = "import hfgen.cli.main, hfgen.hub.publish, hfgen.pipelines, hfgen.trainer.train, matplotlib.pyplot"
THEIRS = "import torch\nfrom diffusers import AutoModel, DDPMScheduler, DiffusionPipeline, UNet2DModel"
COMMAND = "import sys\nfrom hfgen.cli.main import main\nsys.exit(main(arguments))"
SCRIPT = """
import runpy, sys
sys.argv = arguments
runpy.run_path(arguments[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Done:
    """What a task left: its exit status, what it printed, and what it put into `answer`."""

    status: int
    out: str
    err: str
    answer: dict

    def check(self) -> Done:
        assert self.status == 0, self.err
        return self

    def refusal(self) -> str:
        """Its one line on stderr, of a command that ended with an `HfgenError`."""
        assert self.status == 1, self.out + self.err
        (line,) = without_bars(self.err)
        return line


def without_bars(text: str) -> list[str]:
    """The lines that are not of the progress bars of downloads."""
    return [line for line in text.splitlines() if line and "it/s]" not in line]


class Python:
    """An interpreter with an HF_HOME of its own: a process that forks for every task, which thus starts afresh at once."""

    def __init__(self, executable: str, preload: str, hub: HubServer, folder: Path):
        self.folder, self.home = folder, folder / "home"
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", str(folder)),
            "OMP_NUM_THREADS": "1",
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(self.home),
            "HF_MODULES_CACHE": str(self.home / "modules"),
        }
        self.executable, self.variables = executable, variables
        command = [executable, str(WORKER), preload]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=variables
        )

    def run(self, code: str, *arguments, token: str | None = "hf_alice") -> Done:
        """Run code, which finds `arguments` and a dict `answer` for JSON values, as the user with that token."""
        variables = {"HF_TOKEN": token} if token else {}
        task = {"code": code, "arguments": [str(a) for a in arguments], "variables": variables}
        print(json.dumps(task), file=self.process.stdin, flush=True)
        return Done(**json.loads(self.process.stdout.readline()))

    def hfgen(self, *arguments, token: str | None = "hf_alice") -> Done:
        """The command `hfgen`."""
        return self.run(COMMAND, *arguments, token=token)

    def script(self, path: Path, *arguments, token: str | None = "hf_alice") -> Done:
        """A Python script with arguments."""
        return self.run(SCRIPT, path, *arguments, token=token)

    def forget(self):
        """Empty the cache, as that of a user who has never pulled anything."""
        shutil.rmtree(self.home, ignore_errors=True)

    def leave(self):
        """End the process."""
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def stranger_python(tmp_path_factory) -> str:
    """An interpreter that has all that this one has but hfgen."""
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    packages = folder / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("hfgen") and "__editable__" not in entry.name:
            (packages / entry.name).symlink_to(entry)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "everything_else.pth").write_text(f"{packages}\n")
    look = "import importlib.util as u; print([u.find_spec(name) is None for name in ('hfgen', 'diffusers')])"
    found = subprocess.run([python, "-c", look], capture_output=True, text=True, cwd=folder, env={})
    assert found.stdout.strip() == "[True, False]", found.stdout + found.stderr
    return str(python)


@pytest.fixture(scope="session")
def ours(hub, tmp_path_factory):
    """A Python with hfgen."""
    python = Python(sys.executable, OURS, hub, tmp_path_factory.mktemp("ours"))
    yield python
    python.leave()


@pytest.fixture(scope="session")
def stranger(hub, stranger_python, tmp_path_factory):
    """A Python that has never heard of hfgen."""
    python = Python(stranger_python, THEIRS, hub, tmp_path_factory.mktemp("theirs"))
    yield python
    python.leave()
