"""Flows through everything that other kinds go through."""

import json
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

import hfgen
from hfgen.cli.main import main
from hfgen.cli.parser import parse_training_config
from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.families.flow.flags import FlowSampling
from hfgen.families.registry import get_family
from hfgen.models.modeling_hfgen_flow import FlowModel
from hfgen.pipelines import FlowPipeline
from hfgen.trainer.train import train

CONFIG = {"scales": 1, "channels": 8, "layers": 1, "top_features": 8, "top_groups": 2}
WEIGHTS = "flow/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trains on 64 real digits for 12 steps over 3 epochs; without figures unless they are asked for."""
    root = tmp_path_factory.mktemp("flows")
    (root / "flow.json").write_text(json.dumps(CONFIG))
    flags = {
        "dataset_name": "digits",
        "validation_split": "test",
        "max_train_samples": 64,
        "model_config_name_or_path": root / "flow.json",
        "train_batch_size": 16,
        "eval_batch_size": 99,
        "num_epochs": 3,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 3,
        "checkpointing_steps": 6,
        "logging_steps": 2,
        "save_images_epochs": 0,
        "logger": "none",
    }

    def start(name, **changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        words = [f"--{key}={value}" for key, value in {**flags, "output_dir": root / name, **changes}.items()]
        return train(parse_training_config("flow", words))

    return start


@pytest.fixture(scope="module")
def trained(run):
    return run("whole")


def pipeline(**changes):
    torch.manual_seed(0)
    return FlowPipeline(FlowModel(**{**CONFIG, "sample_size": 8, **changes}))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_it_trains_and_resumes_bit_for_bit(run, trained):
    resumed = run("resumed", resume_from_checkpoint=trained / "checkpoint-6")
    one, other = (load_file(folder / WEIGHTS) for folder in (trained, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [row["train_loss"] for row in read_history(trained / "history.jsonl") if "train_loss" in row]
    assert losses[-1] < losses[0]
    record = json.loads((resumed / "training.json").read_text())
    assert 0 < record["cpu_seconds"] < 100 * record["seconds"]


def test_it_is_described_measured_and_drawn(trained, tmp_path, capsys):
    for name in ("samples.png", "temperatures.png", "loss.png"):
        assert (trained / name).is_file()
    card = (trained / "README.md").read_text()
    assert "A coupling flow in 2 scales of 8x8 grey images" in card
    assert "![temperatures](temperatures.png)" in card
    out = tmp_path / "results.json"
    words = "--dataset_name digits --max_images 12 --likelihood --iw_samples 3 --out".split()
    assert main(["evaluate", str(trained), *words, str(out)]) == 0
    assert "3 noises an image" in capsys.readouterr().out
    found = hfgen.EvaluationResult.load(out)
    bound, weighted = (found.headline(role, "bits/dim") for role in ("bound", "importance-weighted bound"))
    assert 0 < weighted.mean <= bound.mean < 8
    assert bound.standard_error > 0
    assert hfgen.load(trained).family.likelihood_kind.startswith("exact density")
    cold, warm = (hfgen.sample(trained, num_images=2, temperature=t) for t in (0.0, 1.0))
    assert torch.equal(cold.images[0], cold.images[1])
    assert not torch.equal(warm.images[0], warm.images[1])
    assert warm.how == "inverse of the flow"
    assert cold.how == "inverse of the flow, temperature 0"


def test_it_goes_on_from_a_model_with_other_noise_alone_refused(run, trained):
    start = {"pretrained_model_name_or_path": trained, "num_epochs": 1}
    on = run("on", **start)
    assert (on / WEIGHTS).is_file()
    with pytest.raises(HfgenError, match=r"weights of other shapes .*leave --dequantization"):
        run("other", **start, dequantization="variational")


def test_affine_couplings_and_variational_noise_train(run, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**CONFIG, "coupling": "affine"}))
    affine = {"model_config_name_or_path": tmp_path / "a.json", "dequantization": "variational"}
    out = run("affine", num_epochs=1, mixed_precision="bf16", **affine)
    found = hfgen.evaluate(out, dataset_name="digits", max_images=4, iw_samples=2)
    assert found.likelihood.likelihood == "exact density, variational dequantisation"


def test_an_image_is_a_function_of_its_generator_alone():
    model = pipeline()
    many, other = (model(3, generators(*seeds), output_type="pt").images for seeds in ((1, 2, 3), (5, 3, 2)))
    # of batches of one size; a pixel on the edge of two levels may fall to either
    torch.testing.assert_close(many[1:], other[[2, 1]], rtol=0, atol=1.1 / 255)
    assert not torch.equal(many[0], other[0])


@pytest.mark.parametrize("coupling", ["spline", "affine"])
def test_latents_of_an_image_give_it_back(coupling):
    model = pipeline(coupling=coupling)
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    latents = model.encode(images, generators(1, 2, 3, 4))
    assert latents.isfinite().all()
    back = model(latents=latents, output_type="pt").images
    torch.testing.assert_close(back * 255, images.float(), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"generator": generators(1, 2)}, "2 generators for 1 images"),
        ({"latents": torch.zeros(2, 64)}, r"latents of shape \(2, 64\)"),
        ({"output_type": "jpg"}, "output_type='jpg'"),
    ],
)
def test_bad_calls_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        pipeline()(**arguments)


def test_there_is_nothing_to_compile():
    with pytest.raises(HfgenError, match="compile: a flow draws"):
        get_family("flow").sampler(pipeline(), FlowSampling(), compile=True)


STRANGER = """import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split('.')[0] == 'hfgen': raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
from diffusers import DiffusionPipeline
for first, second, arguments in ((sys.argv[1], sys.argv[2], {}), (sys.argv[3], sys.argv[4], {"class_labels": [1, "a"]})):
    DiffusionPipeline.from_pretrained(first, trust_remote_code=True).save_pretrained(second)
    pipeline = DiffusionPipeline.from_pretrained(second, trust_remote_code=True)
    images = pipeline(2, generator=torch.Generator().manual_seed(0), output_type="pt", **arguments).images
    print(tuple(images.shape), images.mean().item())
"""


@pytest.mark.slow
def test_flows_and_gans_load_where_hfgen_cannot_be_imported(tmp_path):
    """Both in one interpreter; what is drawn there is what is drawn here."""
    from hfgen.models.gan_presets import build_gan
    from hfgen.pipelines import GANPipeline

    small = {"latent_size": 4, "block_out_channels": [8, 8]}
    ours = {
        "flow": (pipeline(), {}),
        "gan": (GANPipeline(build_gan(small, 8, 1, 2).generator, ["a", "b"]), {"class_labels": [1, "a"]}),
    }
    places = [tmp_path / f"{name}{i}" for name in ours for i in (1, 2)]
    for (model, _), place in zip(ours.values(), places[::2], strict=True):
        model.save_pretrained(place)
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *map(str, places)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("(")]
    for line, (model, arguments) in zip(told, ours.values(), strict=True):
        images = model(2, generator=torch.Generator().manual_seed(0), output_type="pt", **arguments).images
        assert line.startswith("(2, 1, 8, 8)")
        assert float(line.rpartition(" ")[2]) == pytest.approx(images.mean().item(), abs=1e-5)
