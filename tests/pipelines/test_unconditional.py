"""The pipeline against diffusers' own, and what it saves against a Python that has no hfgen."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DModel,
)

from hfgen.pipelines import UnconditionalDiffusionPipeline
from hfgen.schedulers import LinearDDPMScheduler

STEPS = 20


def tiny_unet(**kwargs):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        **kwargs,
    )
    return unet.eval()


def pipeline(scheduler, **kwargs):
    made = UnconditionalDiffusionPipeline(tiny_unet(**kwargs), scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [STEPS, 6])
def test_equals_the_ddpm_pipeline_of_diffusers(steps, prediction_type):
    ours = pipeline(DDPMScheduler(STEPS, prediction_type=prediction_type))
    stock = DDPMPipeline(ours.unet, ours.scheduler)
    stock.set_progress_bar_config(disable=True)
    for output_type in ("np", "pt"):
        expected = stock(3, seeded(), steps, output_type).images
        assert np.array_equal(ours(3, seeded(), steps, output_type=output_type).images, expected)
    pairs = zip(ours(3, seeded(), steps).images, stock(3, seeded(), steps).images, strict=True)
    assert all(a == b for a, b in pairs)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_equals_the_ddim_pipeline_of_diffusers(eta):
    ours = pipeline(DDIMScheduler(num_train_timesteps=STEPS))
    stock = DDIMPipeline(ours.unet, ours.scheduler)
    stock.set_progress_bar_config(disable=True)
    # from the noise that belongs to the clipped x_0: without it 250 steps have a worse Frechet distance than 50
    expected = stock(3, seeded(), eta, 5, use_clipped_model_output=True, output_type="np").images
    assert np.array_equal(ours(3, seeded(), 5, eta, "np").images, expected)


def test_a_list_of_generators_gives_each_image_its_own_noise():
    ours = pipeline(DDPMScheduler(STEPS))
    both = ours(2, [seeded(1), seeded(2)], output_type="pt").images
    alone = ours(1, [seeded(2)], output_type="pt").images
    assert torch.allclose(both[1], alone[0], atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-2)


def test_default_steps_are_the_training_steps_up_to_1000():
    seen = []
    pipeline(DDPMScheduler(STEPS))(callback_on_step_end=lambda *args: seen.append(args[1]))
    assert seen == list(range(STEPS))


def test_euler_follows_the_probability_flow_from_scaled_noise():
    ours = pipeline(EulerDiscreteScheduler(num_train_timesteps=STEPS, beta_end=0.5))
    beta = torch.linspace(1e-4, 0.5, STEPS, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, 0)
    sigma = torch.cat([torch.zeros(1), ((1 - alpha_bar) / alpha_bar).sqrt()]).float()
    x = torch.randn(2, 1, 8, 8, generator=seeded()) * sigma[-1]
    with torch.no_grad():
        for t in range(STEPS, 0, -1):
            eps = ours.unet(x / (1 + sigma[t] ** 2).sqrt(), t - 1).sample
            x = x + (sigma[t - 1] - sigma[t]) * eps
    expected = (x / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(ours(2, seeded(), STEPS, output_type="pt").images, expected, atol=1e-3)


def test_the_callback_sees_and_replaces_the_latents():
    ours = pipeline(DDPMScheduler(STEPS))
    seen = []

    def blacken(pipe, step, timestep, tensors):
        assert pipe is ours
        seen.append(int(timestep))
        assert tensors["pred_original_sample"].shape == tensors["latents"].shape == (2, 1, 8, 8)
        return {"latents": torch.full_like(tensors["latents"], -1.0)}

    assert ours(2, output_type="np", return_dict=False, callback_on_step_end=blacken)[0].max() == 0
    assert seen == list(range(STEPS - 1, -1, -1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_inference_steps": 0}, "use 1..20"),
        ({"num_inference_steps": 21}, "use 1..20"),
        ({"generator": [seeded()], "batch_size": 2}, "1 generators for batch_size=2"),
        ({"eta": 0.5}, "DDPMScheduler has no eta"),
        ({"output_type": "jpg"}, "choose one of pil, np, pt"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(DDPMScheduler(STEPS))(**arguments)


def test_a_learned_time_embedding_takes_integer_timesteps_only():
    learned = {"time_embedding_type": "learned", "num_train_timesteps": STEPS}
    pipeline(DPMSolverMultistepScheduler(STEPS), **learned)(1, seeded(), 3)
    with pytest.raises(ValueError, match=r"EulerDiscreteScheduler asks for fractional timesteps.*use DDPMScheduler"):
        pipeline(EulerDiscreteScheduler(STEPS), **learned)(1, seeded(), 3)


STRANGER = """
import sys
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
assert type(pipeline).__name__ == "DDPMPipeline" and type(pipeline.scheduler).__name__ == "DDPMScheduler"
torch.save(pipeline(2, torch.Generator().manual_seed(0), 20, "pt").images, sys.argv[2])
"""


def test_what_it_saves_loads_without_hfgen_and_samples_the_same(tmp_path, stranger):
    ours = pipeline(LinearDDPMScheduler(STEPS + 1))
    ours.save_pretrained(tmp_path / "saved")
    images = tmp_path / "images.pt"
    done = stranger.run(STRANGER, tmp_path / "saved", images, token=None).check()
    assert "not expected" not in done.err
    expected = ours(2, seeded(), 20, output_type="pt").images
    assert torch.allclose(torch.load(images), expected, atol=1e-4)


def test_a_saved_repository_is_stock_and_survives_saving_again(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    ours = pipeline(LinearDDPMScheduler(50, variance_type="fixed_large"))
    ours.save_pretrained(first)
    UnconditionalDiffusionPipeline.from_pretrained(first).save_pretrained(second)
    for folder in (first, second):
        index = json.loads((folder / "model_index.json").read_text())
        assert index["_class_name"] == "DDPMPipeline"
        assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
        config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
        assert set(config) == {"_class_name", "_diffusers_version", *DDPMScheduler().config} - {"_use_default_values"}
        assert config["_class_name"] == "DDPMScheduler"
        assert (config["beta_start"], config["variance_type"]) == (1e-4 * 20, "fixed_large")
        assert str(tmp_path) not in "".join(path.read_text() for path in folder.rglob("*.json"))
        loaded = DiffusionPipeline.from_pretrained(folder)
        assert torch.allclose(loaded.scheduler.betas.double(), ours.scheduler.betas, rtol=1e-6, atol=0)
        assert all(torch.equal(v, ours.unet.state_dict()[k]) for k, v in loaded.unet.state_dict().items())


class OtherBetas(DDPMScheduler):
    def __init__(self):
        super().__init__(STEPS)
        self.betas = self.betas * 2


def test_betas_that_the_stock_scheduler_lacks_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="OtherBetas: DDPMScheduler makes other betas"):
        pipeline(OtherBetas()).save_pretrained(tmp_path)
