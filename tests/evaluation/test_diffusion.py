"""A diffusion model's bound as values for a report, and its figure."""

import json
import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from drawing import model_of
from flat import flat
from PIL import Image

from hfgen.core.errors import HfgenError
from hfgen.data.evaluation_images import load_evaluation_images
from hfgen.library import evaluate
from hfgen.likelihood import exact_vlb, sampled_vlb
from hfgen.pipelines import UnconditionalDiffusionPipeline
from hfgen.schedulers import reverse_process

STEPS = 8


def pipeline_of(scheduler=None, channels=1, side=8, outputs=1):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels * outputs,
        block_out_channels=(4, 4),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
    )
    return UnconditionalDiffusionPipeline(unet.eval(), scheduler or DDPMScheduler(STEPS, 0.01, 0.5))


def measured(pipeline, evaluations=None, **arguments):
    """The bound on the digits, `evaluations` None: every t of every image."""
    options = {"exact": True} if evaluations is None else {"evaluations": evaluations}
    return evaluate(model_of(pipeline), dataset_name="digits", **options, **arguments)


def evaluate_diffusion(pipeline, **arguments):
    return flat(measured(pipeline, **arguments))


@pytest.fixture(scope="module")
def pipeline():
    return pipeline_of()


@pytest.fixture(scope="module")
def exact_result(pipeline):
    return measured(pipeline, max_images=6, seed=1)


@pytest.fixture(scope="module")
def exact(exact_result):
    return flat(exact_result)


def test_every_term_in_nats_and_in_bits(pipeline, exact):
    shape, device = (1, 8, 8), torch.device("cpu")
    images = load_evaluation_images("digits", "test", shape=shape, device=device, max_images=6, seed=1).images
    bound = exact_vlb(pipeline.unet, reverse_process(pipeline.scheduler), images, seed=1)
    metrics = exact["metrics"]
    assert next(iter(metrics)) == "vlb_total_bits_per_dim"
    for key in ("total", "prior", "diffusion", "reconstruction"):
        nats, bits = metrics[f"vlb_{key}"], metrics[f"vlb_{key}_bits_per_dim"]
        assert (nats["mean"], nats["standard_error"]) == pytest.approx(getattr(bound, key))
        for field in ("mean", "standard_error"):
            assert bits[field] == pytest.approx(nats[field] / (64 * math.log(2)), rel=1e-12)
        assert (nats["unit"], bits["unit"]) == ("nats/image", "bits/dim")
        assert nats["name"] == bits["name"]
    assert "upper bound on the NLL" in metrics["vlb_total"]["name"]
    total = sum(metrics[f"vlb_{key}"]["mean"] for key in ("prior", "diffusion", "reconstruction"))
    assert metrics["vlb_total"]["mean"] == pytest.approx(total)


def test_each_term_over_t(exact):
    terms, metrics = exact["terms"], exact["metrics"]
    assert (terms["unit"], len(terms["mean"]), terms["draws"]) == ("bits/dim", STEPS, (6,) * STEPS)
    assert terms["mean"][0] == pytest.approx(metrics["vlb_reconstruction_bits_per_dim"]["mean"])
    assert sum(terms["mean"][1:]) == pytest.approx(metrics["vlb_diffusion_bits_per_dim"]["mean"])
    first = metrics["vlb_reconstruction_bits_per_dim"]["standard_error"]
    assert terms["standard_error"][0] == pytest.approx(first, rel=1e-6)


def test_what_was_measured_on_what_and_with_what(exact, exact_result, pipeline):
    expected = {
        "kind": "diffusion",
        "parameters": sum(p.numel() for p in pipeline.unet.parameters()),
        "dataset": "digits",
        "split": "test",
        "images": 6,
        "seed": 1,
        "T": STEPS,
        "prediction_type": "epsilon",
        "variance_type": "fixed_small",
        "evaluations": 6 * STEPS,
        "exact": True,
        "quantity": "log-likelihood of 8-bit pixels",
        "likelihood": "discretised Gaussian at t = 1",
    }
    assert {key: exact[key] for key in expected} == expected
    assert len(exact["dataset_fingerprint"]) == 16
    assert {"python", "torch", "diffusers", "hfgen", "device"} <= set(exact["run_metadata"])
    assert exact["seconds"] > 0
    text = exact_result.table()
    assert "6 images of digits/test" in text
    assert "48 network evaluations, every t" in text
    assert "L_0 = -E log p(x_0|x_1)" in text


def test_a_budget_is_kept(pipeline):
    result = measured(pipeline, evaluations=123, max_images=6)
    results = flat(result)
    images = load_evaluation_images("digits", "test", shape=(1, 8, 8), device=torch.device("cpu"), max_images=6).images
    bound = sampled_vlb(pipeline.unet, reverse_process(pipeline.scheduler), images, evaluations=123)
    assert results["metrics"]["vlb_total"]["mean"] == pytest.approx(bound.total.mean)
    assert (results["evaluations"], results["exact"], sum(results["terms"]["draws"])) == (123, False, 123)
    assert "123 network evaluations, sampled t" in result.table()


def test_terms_that_nobody_drew_are_null(tmp_path):
    result = measured(pipeline_of(DDPMScheduler(1000)), evaluations=100, max_images=3)
    results = flat(result)
    draws = results["terms"]["draws"]
    assert [mean is None for mean in results["terms"]["mean"]] == [count == 0 for count in draws]
    assert [error is None for error in results["terms"]["standard_error"]] == [count < 2 for count in draws]
    result.save(tmp_path / "results.json")
    result.plot(tmp_path / "terms.png")
    assert is_a_figure(tmp_path / "terms.png")


def is_a_figure(path):
    with Image.open(path) as image:
        return image.size[0] > 800 and np.asarray(image.convert("L")).std() > 5


@pytest.mark.slow
def test_a_single_image_has_no_error_and_valid_json(pipeline, tmp_path):
    result = measured(pipeline, max_images=1)
    result.save(tmp_path / "results.json")

    def no_constant(name):
        pytest.fail(f"{name} is not JSON")

    kept = json.loads((tmp_path / "results.json").read_text(), parse_constant=no_constant)
    total = kept["likelihood"]["metrics"]["vlb_total"]
    assert total["standard_error"] is None
    assert total["mean"] == result.metrics["vlb_total"].mean
    assert "nan" not in result.table()
    result.plot(tmp_path / "terms.png")
    assert is_a_figure(tmp_path / "terms.png")


def test_the_figure_shows_the_terms_and_what_they_add_up_to(exact, exact_result, tmp_path):
    left, right = exact_result.plot().axes
    t, mean = left.lines[0].get_data()
    assert list(t) == list(range(1, STEPS + 1))
    assert list(mean) == list(exact["terms"]["mean"])
    reached = right.lines[0].get_ydata()[-1]
    prior = exact["metrics"]["vlb_prior_bits_per_dim"]["mean"]
    assert reached + prior == pytest.approx(exact["metrics"]["vlb_total_bits_per_dim"]["mean"])
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.slow
@pytest.mark.parametrize("evaluations", [None, 150])
def test_images_may_stay_on_disk(pipeline, evaluations, monkeypatch):
    """More of them than memory holds are decoded batch by batch; by no workers here, whose start takes longer."""
    arguments = {"evaluations": evaluations, "max_images": 7, "seed": 1}
    expected = evaluate_diffusion(pipeline, **arguments)
    monkeypatch.setattr("hfgen.data.loading.MEMORY_SHARE", 0)
    monkeypatch.setattr("hfgen.data.loading.decode_all", None)
    monkeypatch.setattr("os.cpu_count", lambda: 0)
    found = evaluate_diffusion(pipeline, **arguments)
    assert found["metrics"] == expected["metrics"]


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_the_sampler_of_a_pipeline_does_not_change_its_bound(pipeline, exact, name):
    """The UNet sees x_t of the forward process, scaled by no scheduler."""
    scheduler = getattr(diffusers, name)(STEPS, 0.01, 0.5)
    other = UnconditionalDiffusionPipeline(pipeline.unet, scheduler)
    results = evaluate_diffusion(other, max_images=6, seed=1)
    assert results["metrics"] == exact["metrics"]


@pytest.mark.parametrize("variance_type", ["fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_other_models(prediction_type, variance_type):
    scheduler = DDPMScheduler(STEPS, 0.01, 0.5, prediction_type=prediction_type, variance_type=variance_type)
    outputs = 2 if variance_type == "learned_range" else 1
    results = evaluate_diffusion(pipeline_of(scheduler, outputs=outputs), max_images=3)
    assert (results["prediction_type"], results["variance_type"]) == (prediction_type, variance_type)
    assert all(math.isfinite(mean) for mean in results["terms"]["mean"])


@pytest.mark.parametrize(
    ("pipeline_arguments", "arguments", "message"),
    [
        ({"side": 16}, {}, r"^the images are 1x8x8 .* the model's 1x16x16"),
        ({"channels": 3}, {}, r"^the images are 1x8x8 .* the model's 3x8x8"),
        ({}, {"split": "tset"}, "'tset' is not in 'digits'"),
        ({}, {"evaluations": 5}, "evaluations=5: it must be 100 or greater"),
        ({"outputs": 2}, {}, "puts out 2 channels .* set the variance_type"),
        ({"scheduler": diffusers.FlowMatchEulerDiscreteScheduler()}, {}, "a flow between noise and data"),
    ],
)
def test_what_cannot_be_measured(pipeline_arguments, arguments, message):
    with pytest.raises(HfgenError, match=message) as caught:
        evaluate_diffusion(pipeline_of(**pipeline_arguments), **{"evaluations": 100, **arguments})
    assert "\n" not in str(caught.value)
