"""Inpainting against diffusers' RePaint, interpolation against denoising by hand, and both of classes against a plain network."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, RePaintPipeline, RePaintScheduler, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput

from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline
from hfgen.schedulers import SAMPLER_NAMES, LinearDDPMScheduler, PosteriorMeanDDPMScheduler, make_sampler

STEPS = 40
CONFIG = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}


class Saying(UNet2DModel):
    """A network that puts the noise it predicts in the words of another prediction."""

    scheduler = None
    always = None  # the x_0 that it predicts for everything

    def forward(self, sample, timestep, **_):
        alpha_bar = self.scheduler.alphas_cumprod.double()[torch.as_tensor(timestep).round().long()]
        signal, sigma, x = alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), sample.double()
        if self.always is None:
            epsilon = super().forward(sample, timestep).sample.double()
            x_0 = (x - sigma * epsilon) / signal
        else:
            x_0 = self.always.double().expand_as(x)
            epsilon = (x - signal * x_0) / sigma
        kind = self.scheduler.config.prediction_type
        output = {"epsilon": epsilon, "sample": x_0, "v_prediction": signal * epsilon - sigma * x_0}[kind]
        return UNet2DOutput(sample=output.to(sample.dtype))


def pipeline_of(scheduler=None, always=None):
    torch.manual_seed(0)
    unet = Saying(**CONFIG).eval()
    unet.scheduler, unet.always = scheduler or LinearDDPMScheduler(STEPS), always
    made = UnconditionalDiffusionPipeline(unet, unet.scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, seed=0):
    """8-bit values in [0, 1], (B, 1, 8, 8)."""
    return torch.randint(0, 256, (count, 1, 8, 8), generator=seeded(seed)) / 255


def left_half(count=1):
    mask = torch.zeros(count, 1, 8, 8)
    mask[..., :4] = 1
    return mask


SHORT = {"num_inference_steps": 10, "jump_length": 3, "jump_n_sample": 2, "output_type": "pt"}


def test_inpainting_is_diffusers_repaint():
    ours = pipeline_of()
    scheduler = RePaintScheduler(STEPS, trained_betas=ours.scheduler.betas.float().numpy(), eta=1.0)
    stock = RePaintPipeline(ours.unet, scheduler)
    stock.set_progress_bar_config(disable=True)
    x, mask = pictures(2), left_half(2)
    # its mask is 1 where the image is kept
    expected = stock(x * 2 - 1, 1 - mask, 10, 1.0, 3, 2, seeded(), output_type="np").images
    found = ours.inpaint(x, mask, **(SHORT | {"output_type": "np"}), generator=seeded()).images
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [10, STEPS])
def test_kept_pixels_stay_and_the_others_are_painted(prediction, steps):
    ours = pipeline_of(LinearDDPMScheduler(STEPS, prediction_type=prediction))
    x = pictures(3)
    masks = torch.cat([left_half(), 1 - left_half(), torch.zeros(1, 1, 8, 8)])
    found = ours.inpaint(x, masks, **(SHORT | {"num_inference_steps": steps}), generator=seeded()).images
    assert torch.allclose(found[masks == 0], x[masks == 0], atol=1e-6)
    changed = (found - x).abs() > 1 / 255
    assert changed[masks == 1].float().mean() > 0.8
    other = ours.inpaint(x, masks, **(SHORT | {"num_inference_steps": steps}), generator=seeded(1)).images
    assert not torch.allclose(other, found, atol=1e-2)
    # every prediction says the same x_0
    expected = pipeline_of().inpaint(x, masks, **(SHORT | {"num_inference_steps": steps}), generator=seeded()).images
    assert torch.allclose(found, expected, atol=2e-3)


def test_a_network_that_knows_the_image_paints_it():
    x = pictures(1)
    ours = pipeline_of(DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2"), always=x * 2 - 1)
    found = ours.inpaint(x, torch.ones(1, 1, 8, 8), **SHORT, generator=seeded()).images
    assert torch.allclose(found, x, atol=1e-3)


def test_one_mask_for_all_in_the_forms_of_images():
    ours, x = pipeline_of(), pictures(2)
    expected = ours.inpaint(x, left_half(2), **SHORT, generator=seeded()).images
    array = (left_half()[0, 0].numpy() * 255).astype(np.uint8)
    for mask in (left_half(), array, ours.numpy_to_pil(left_half().permute(0, 2, 3, 1).numpy())[0]):
        assert torch.equal(ours.inpaint(x, mask, **SHORT, generator=seeded()).images, expected)


def test_second_half_of_a_learned_variance_is_left_out():
    torch.manual_seed(0)
    unet = UNet2DModel(**{**CONFIG, "out_channels": 2}).eval()
    ours = UnconditionalDiffusionPipeline(unet, LinearDDPMScheduler(STEPS, variance_type="learned_range"))
    ours.set_progress_bar_config(disable=True)
    found = ours.inpaint(pictures(1), left_half(), **SHORT, generator=seeded()).images
    assert found.shape == (1, 1, 8, 8)
    found = ours.interpolate(pictures(1), pictures(1, 1), 3, num_inference_steps=10, output_type="pt").images
    assert found.shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": left_half(3)}, "3 masks for 2 images"),
        ({"mask": torch.zeros(1, 1, 4, 4)}, "1x8x8"),
        ({"mask": torch.zeros(1, 3, 8, 8)}, "1x8x8"),
        ({"images": torch.zeros(1, 1, 4, 4)}, "1x8x8"),
        ({"num_inference_steps": 41}, r"num_inference_steps=41: use 1\.\.40"),
        ({"num_inference_steps": 0}, r"use 1\.\.40"),
        ({"jump_length": 0}, r"jump_length=0: use 1\.\.10"),
        ({"jump_length": 11}, r"use 1\.\.10"),
        ({"jump_n_sample": 0}, "jump_n_sample=0"),
        ({"output_type": "jpg"}, "choose one of pil, np, pt"),
    ],
)
def test_inpainting_out_of_range(changes, message):
    arguments = {"images": pictures(2), "mask": left_half(), **SHORT, **changes}
    with pytest.raises(ValueError, match=message):
        pipeline_of().inpaint(**arguments)


def test_inpainting_by_mu_is_refused():
    torch.manual_seed(0)
    ours = UnconditionalDiffusionPipeline(UNet2DModel(**CONFIG), PosteriorMeanDDPMScheduler(STEPS, beta_end=0.4))
    with pytest.raises(ValueError, match="needs a model of epsilon, sample or v_prediction"):
        ours.inpaint(pictures(1), left_half(), **SHORT)


def test_zero_terminal_snr():
    betas = {"beta_end": 0.4, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    torch.manual_seed(0)
    ours = UnconditionalDiffusionPipeline(UNet2DModel(**CONFIG).eval(), DDPMScheduler(STEPS, **betas))
    ours.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match=r"use 1\.\.39"):
        ours.inpaint(pictures(1), left_half(), **(SHORT | {"num_inference_steps": STEPS}))
    assert ours.inpaint(pictures(1), left_half(), **(SHORT | {"num_inference_steps": 39})).images.isfinite().all()
    found = ours.interpolate(pictures(1), pictures(1, 1), 3, 1.0, output_type="pt").images
    assert found.isfinite().all()


def test_interpolation_by_hand():
    ours = pipeline_of(DDIMScheduler(STEPS, beta_end=0.4, clip_sample=False))
    a, b = pictures(2, 1), pictures(2, 2)
    found = ours.interpolate(a, b, 5, 0.5, 10, seeded(), output_type="pt").images
    assert found.shape == (10, 1, 8, 8)
    noise, scheduler = torch.randn(2, 1, 8, 8, generator=seeded()), ours.scheduler
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[5:]
    alpha_bar = scheduler.alphas_cumprod[t[0]]
    ends = [alpha_bar.sqrt() * (x * 2 - 1) + (1 - alpha_bar).sqrt() * noise for x in (a, b)]
    for i in range(2):  # the two walks one after another
        for k in range(5):
            x = (1 - k / 4) * ends[0][i : i + 1] + k / 4 * ends[1][i : i + 1]
            with torch.no_grad():
                for step in t:
                    x = scheduler.step(ours.unet(x, step).sample, step, x).prev_sample
            assert torch.allclose(found[5 * i + k], (x[0] / 2 + 0.5).clamp(0, 1), atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_every_sampler_ends_at_the_image_that_the_network_knows(sampler, strength):
    x = pictures(1)
    trained = LinearDDPMScheduler(STEPS)
    ours = pipeline_of(trained, always=x * 2 - 1)
    ours.scheduler = make_sampler(sampler, trained)
    found = ours.interpolate(pictures(1, 1), pictures(1, 2), 3, strength, 10, seeded(), output_type="pt").images
    assert torch.allclose(found, x.expand(3, -1, -1, -1), atol=2e-2)


def test_calls_of_the_network_follow_the_strength():
    for sampler, calls in (("ddpm", 6), ("euler", 6), ("heun", 11)):
        ours = pipeline_of()
        ours.scheduler = make_sampler(sampler, ours.scheduler)
        seen = []
        ours.unet.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(float(args[1])))
        ours.interpolate(pictures(1), pictures(1, 1), 2, 0.3, 20, seeded())
        assert len(seen) == calls
        assert seen == sorted(seen, reverse=True)
        assert 8 < seen[0] < 14


def test_little_strength_is_nearly_a_cross_fade():
    a, b = pictures(1, 1), pictures(1, 2)
    found = pipeline_of(LinearDDPMScheduler(1000)).interpolate(a, b, 3, 1e-9, 1000, seeded(), output_type="pt").images
    assert torch.allclose(found, torch.cat([a, (a + b) / 2, b]), atol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1}, "at least 2 steps"),
        ({"strength": 0}, "strength above 0 to 1"),
        ({"strength": 1.1}, "strength above 0 to 1"),
        ({"strength": float("nan")}, "strength above 0 to 1"),
        ({"b": pictures(2)}, "1 images in a and 2 in b"),
        ({"b": torch.zeros(1, 1, 4, 4)}, "1x8x8"),
        ({"num_inference_steps": 41}, r"use 1\.\.40"),
        ({"eta": 0.5}, "has no eta"),
        ({"output_type": "jpg"}, "choose one of pil, np, pt"),
    ],
)
def test_interpolation_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline_of().interpolate(**({"a": pictures(1), "b": pictures(1, 1)} | changes))


def test_images_that_are_not_square():
    torch.manual_seed(0)
    unet = UNet2DModel(**{**CONFIG, "sample_size": [8, 4]}).eval()
    ours = UnconditionalDiffusionPipeline(unet, LinearDDPMScheduler(STEPS))
    ours.set_progress_bar_config(disable=True)
    x, mask = pictures(2)[..., :4], left_half()[..., 2:6]
    found = ours.inpaint(x, mask, **SHORT, generator=seeded()).images
    assert torch.allclose(found[..., 2:], x[..., 2:], atol=1e-6)
    assert ours.interpolate(x[:1], x[1:], 3, num_inference_steps=5, output_type="pt").images.shape == (3, 1, 8, 4)
    with pytest.raises(ValueError, match="this model takes 1x8x4"):
        ours.inpaint(pictures(1), mask, **SHORT)


# of classes


def classes_of(outputs=1, **scheduler):
    torch.manual_seed(0)
    unet = UNet2DModel(**{**CONFIG, "out_channels": outputs}, num_class_embeds=4).eval()
    made = ClassConditionalDDPMPipeline(unet, LinearDDPMScheduler(STEPS, **scheduler), ["ship", "frog", "cat"])
    made.set_progress_bar_config(disable=True)
    return made


def plain_of(pipeline, labels, scale=1):
    """An unconditional pipeline of the network guided by hand, a label for each row; 3 stands for none."""

    def predict(x, t):
        of_class, without = (
            pipeline.unet(x, t, class_labels=torch.tensor(c)).sample for c in (labels, [3] * len(labels))
        )
        return of_class if scale == 1 else without + scale * (of_class - without)

    made = UnconditionalDiffusionPipeline(pipeline.unet, pipeline.scheduler)
    made._predict = predict
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("scale", [0, 1, 2.5])
def test_classes_are_edited_as_their_guided_network_is(prediction, scale):
    ours = classes_of(prediction_type=prediction)
    x, mask = pictures(2), left_half()
    found = ours.inpaint(x, mask, ["cat", 0], scale, **SHORT, generator=seeded()).images
    assert torch.allclose(found[..., 4:], x[..., 4:], atol=1e-6)
    expected = plain_of(ours, [2, 0], scale).inpaint(x, mask, **SHORT, generator=seeded()).images
    assert torch.allclose(found, expected, atol=1e-4)
    a, b = pictures(2, 1), pictures(2, 2)
    arguments = {"steps": 3, "num_inference_steps": 10, "output_type": "pt"}
    found = ours.interpolate(a, b, ["cat", 0], scale, **arguments, generator=seeded()).images
    walks = plain_of(ours, [2, 2, 2, 0, 0, 0], scale)
    assert torch.allclose(found, walks.interpolate(a, b, **arguments, generator=seeded()).images, atol=1e-4)


@pytest.mark.slow
def test_one_label_for_all_images_and_what_it_changes():
    ours, x = classes_of(), pictures(2)
    for edit in (
        lambda labels: ours.inpaint(x, left_half(), labels, 2.0, **SHORT, generator=seeded()).images,
        lambda labels: ours.interpolate(x, x.flip(0), labels, 2.0, 3, output_type="pt", generator=seeded()).images,
    ):
        cats = edit("cat")
        assert torch.equal(cats, edit([2, 2]))
        assert torch.equal(cats, edit(torch.tensor([2])))
        assert not torch.allclose(cats, edit("ship"), atol=1e-3)


def test_a_learned_variance_of_classes_is_left_out():
    ours, x = classes_of(outputs=2, variance_type="learned_range"), pictures(2)
    found = ours.inpaint(x, left_half(), 1, 2.0, **SHORT, generator=seeded()).images
    assert torch.allclose(found[..., 4:], x[..., 4:], atol=1e-6)
    assert ours.interpolate(x, x, 1, 2.0, 3, num_inference_steps=10, output_type="pt").images.shape == (6, 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_labels": "dog"}, r"class label 'dog': use 0\.\.2, or a name of ship, frog, cat"),
        ({"class_labels": [0, 3]}, r"class label 3: use 0\.\.2"),
        ({"class_labels": []}, "no class_labels"),
        ({"class_labels": [0, 1, 2]}, "3 class_labels for 2 images: pass one for all, or one for each"),
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0: use 0 or more"),
        ({"output_type": "jpg"}, "choose one of pil, np, pt"),
    ],
)
def test_classes_that_there_are_not(changes, message):
    arguments = {"class_labels": 0, "output_type": "pt", **changes}
    x = pictures(2)
    for edit in (classes_of().inpaint, classes_of().interpolate):
        with pytest.raises(ValueError, match=message) as error:
            edit(x, x.new_zeros(2, 1, 8, 8), **arguments)
        assert "\n" not in str(error.value)
