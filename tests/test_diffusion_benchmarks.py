"""The benchmarks of samplers and of ablations, small."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from drawing import sampler_of

from hfgen.cli.parser import parse_training_config
from hfgen.configs.evaluation import EvaluationConfig
from hfgen.core.resume import Resumable
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.networks import load_feature_network
from hfgen.evaluation.quality import frechet_distance
from hfgen.evaluation.samples import Draws, real_images
from hfgen.hub.loading import load
from hfgen.models.noise_predictor import build_unet, load_unet_config
from hfgen.pipelines import UnconditionalDiffusionPipeline

pytestmark = pytest.mark.slow

COUNT = 80


@pytest.fixture(autouse=True)
def benchmarks(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    )
    folder = tmp_path_factory.mktemp("benchmark") / "tiny"
    UnconditionalDiffusionPipeline(unet, DDPMScheduler(20)).save_pretrained(folder)
    return folder


def test_samplers(pipeline, tmp_path, capsys):
    import sampling

    out, plot = tmp_path / "s.json", tmp_path / "s.png"
    flags = [str(pipeline), "--dataset_name", "digits", "--samples", str(COUNT), "--device", "cpu", "--out", str(out)]
    sampling.main([*flags, "--schedulers", "ddim", "--evaluations", "4"])
    first = json.loads(out.read_text())["rows"]
    sampling.main([*flags, "--schedulers", "heun", "unipc", "ddim", "--evaluations", "4", "20", "--plot", str(plot)])
    result = json.loads(out.read_text())
    rows = {(row["scheduler"], row["evaluations"]): row for row in result["rows"]}
    # of an earlier run kept, of 20 steps that unipc cannot take told, all in the samplers' order
    assert list(rows) == [("ddim", 4), ("ddim", 20), ("unipc", 4), ("heun", 4), ("heun", 20)]
    assert rows["ddim", 4] == first[0]
    assert "unipc, 20 evaluations: num_inference_steps=20" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert all(0.3 < row["share_of_bare"] < 3 for row in result["rows"])

    loaded, network = load(pipeline).pipeline, load_feature_network(None, torch.device("cpu"))

    def draws(**options):
        common = {"count": COUNT, "seed": 0, "batch_size": 64, "resumable": Resumable(None)}
        return Draws(sampler=sampler_of(loaded, **options), device=torch.device("cpu"), **common)

    reference = real_images(draws(), network, (1, 8, 8), EvaluationConfig(dataset_name="digits")).reference
    for name, evaluations, steps in (("ddim", 20, 20), ("heun", 20, 10), ("heun", 4, 2)):
        images, _ = draws(steps=steps, scheduler=name).images()
        expected = frechet_distance(network(ImagesInMemory(images)), reference)
        assert rows[name, evaluations]["frechet"] == pytest.approx(expected, rel=1e-6)

    sampling.main([*flags, "--schedulers", "ddim", "--evaluations", "5", "--seed", "1"])
    assert [row["evaluations"] for row in json.loads(out.read_text())["rows"]] == [5]


def test_rows_of_ablations_are_configurations_of_the_trainer():
    import ablations

    rows = [
        [f"--{key}={value}" for key, value in changes.items()]
        for changes in map(ablations.HO_2020.__or__, ablations.ROWS.values())
    ]
    assert len({repr(parse_training_config("ddpm", flags)) for flags in rows}) == len(rows)
    config = load_unet_config(str(ablations.SMALL_UNET))
    assert 200_000 < sum(p.numel() for p in build_unet(config, 28, 1, 1000).parameters()) < 500_000


def test_an_ablation(tmp_path, capsys):
    import ablations

    out, table = tmp_path / "a.json", tmp_path / "a.md"
    flags = "--rows 4 --dataset_name digits --model digits --steps 2 --samples 70 --sampling_steps 2 --evaluations 100"
    arguments = [*flags.split(), "--work", str(tmp_path / "work"), "--out", str(out), "--markdown", str(table)]
    ablations.main(arguments)
    result = json.loads(out.read_text())
    scheduler = json.loads((tmp_path / "work/04/scheduler/scheduler_config.json").read_text())
    assert (scheduler["beta_schedule"], scheduler["variance_type"]) == ("squaredcos_cap_v2", "learned_range")
    assert result["rows"][0]["name"] == list(ablations.ROWS)[4]
    assert result["rows"][0]["bits_per_dim"] > 0
    assert table.read_text().count("\n") == 5
    before = table.read_text()
    ablations.main(arguments)  # from what is there, without training
    assert table.read_text() == before
    assert "steps of 64 images" not in capsys.readouterr().out
