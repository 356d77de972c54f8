"""Work for the processes of one group, each `python process_group.py FOLDER`; in one process the same by `run` alone."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from hfgen.cli import main as cli
from hfgen.core.errors import HfgenError
from hfgen.core.processes import on_first, shared, together
from hfgen.core.resume import Resumable
from hfgen.data.loading import ImagesInMemory
from hfgen.library import compare
from hfgen.likelihood.flow import dequantization_bounds
from hfgen.likelihood.vdm import vdm_bound
from hfgen.models.modeling_hfgen_vdm import NoiseSchedule

UNITS = 7


def commands(folder):
    """Command lines: batches that are shared out unevenly, and one that fails after the models are loaded."""
    trajectory = f"--steps 3 --trajectory {folder}/moving.gif"
    return [
        words.split()
        for words in (
            f"sample {folder}/diffusion --num_images 11 --batch_size 2 {trajectory} --out {folder}/single",
            f"sample {folder}/vae --num_images 5 --batch_size 2 --out {folder}/grid.png",
            f"evaluate {folder}/diffusion --dataset_name digits --exact --max_images 5 --batch_size 20 --out {folder}/exact.json",
            f"evaluate {folder}/vae --dataset_name digits --max_images 5 --resolution 9",
        )
    ]


def compared(folder):
    """Two models side by side, as JSON values."""
    asked = {"samples": 70, "evaluations": 100, "iw_samples": 3, "max_images": 20, "steps": 2, "batch_size": 7}
    models = [folder / "diffusion", folder / "vae"]
    done = compare(models, out=folder / "page.html", repeat=1, dataset_name="digits", **asked)
    return {name: result.to_json() for name, result in done.results.items()}


def bounds():
    """Of toy networks, as exact numbers."""
    pixels = torch.randint(0, 256, (11, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = ImagesInMemory(pixels)

    def flow(x, noise):
        return -(x + noise).square().flatten(1).sum(1)

    dequantized = dequantization_bounds(flow, images, variational=False, num_samples=3, batch_size=4)
    schedule = NoiseSchedule(kind="fixed", gamma_min=-8.0, gamma_max=4.0)
    vdm = vdm_bound(lambda z, gamma: torch.tanh(2 * z), schedule, images, evaluations=60, batch_size=8)
    return [*dequantized.values.flatten().tolist(), *vdm.total, *vdm.curve.nan_to_num().tolist()]


def rules(folder, rank):
    """What the rest stands on, as values that all processes are to agree in; and whose units this one has done."""
    own = []

    def work(units):
        for unit in units:
            own.append(unit)
            if unit == "bad":
                raise ValueError("no such unit")
            yield [unit, list(shared(range(2), lambda inner: inner))]

    found = list(shared(range(UNITS), work))
    told = []
    for failing in (lambda: list(shared(["good", "bad", "good"], work)), lambda: on_first(lambda: 1 / 0)):
        try:
            failing()
        except (HfgenError, ValueError, ZeroDivisionError) as error:
            told.append(str(error))
    unfinished = Resumable(folder / "work", {"of": "all"})
    unfinished.save("part", {"from": torch.tensor(rank)})
    kept = unfinished.load("part")["from"].item()
    unfinished.finish()
    return {"found": found, "told": told, "first": on_first(lambda: rank), "own": own, "kept": kept}


def run(folder, rank=0):
    """The statuses of all command lines, and what was found."""
    return {
        "statuses": [cli.main(words) for words in commands(folder)],
        "compared": compared(folder),
        "bounds": bounds(),
        "rules": rules(folder, rank),
    }


if __name__ == "__main__":
    place, number = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.set_num_threads(1)
    with together():
        cli.together = nullcontext  # one group for all of them
        result = run(place, number)
    (place / f"process-{number}.json").write_text(json.dumps(result))
