"""Guidance by hand, labels, and repositories that load with hfgen (no code of theirs is run) and without it."""

import json
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel

from hfgen.core.errors import HfgenError
from hfgen.drawing.draw import draw_samples
from hfgen.families.base import make_options
from hfgen.families.registry import get_family
from hfgen.hub.loading import load
from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline
from hfgen.schedulers import LinearDDPMScheduler, PosteriorMeanDDPMScheduler

STEPS = 25
NAMES = ["ship", "frog", "cat"]


def unet_of(classes=3, outputs=1):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=outputs,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
        num_class_embeds=None if classes is None else classes + 1,
    ).eval()


def pipeline_of(scheduler=None, names=NAMES, outputs=1):
    made = ClassConditionalDDPMPipeline(unet_of(outputs=outputs), scheduler or LinearDDPMScheduler(STEPS), names)
    made.set_progress_bar_config(disable=True)
    return made


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(pipeline, labels, generator=None, **kwargs):
    return pipeline(labels, generator=generator or seeded(), output_type="pt", **kwargs).images


def network(pipeline, x, t, labels):
    with torch.no_grad():
        return pipeline.unet(x, t, class_labels=torch.tensor(labels)).sample


class Calls:
    """Batch sizes of the network's calls."""

    def __init__(self, pipeline):
        self.sizes = []
        pipeline.unet.register_forward_pre_hook(lambda _, args: self.sizes.append(len(args[0])))


@pytest.mark.parametrize("scale", [0, 0.5, 1, 1.0, 2.5])
def test_a_step_by_hand(scale):
    ours = pipeline_of(DDIMScheduler(STEPS, beta_end=0.5, timestep_spacing="trailing", clip_sample=False))
    calls = Calls(ours)
    seen = {}
    images(
        ours, [2, 0], guidance_scale=scale, num_inference_steps=2, callback_on_step_end=lambda *a: seen.update(a=a[3])
    )
    assert calls.sizes == ([2, 2] if scale in (0, 1) else [4, 4])
    x, scheduler = torch.randn(2, 1, 8, 8, generator=seeded()), ours.scheduler
    for t in (24, 11):
        of_class, without = (network(ours, x, t, labels) for labels in ([2, 0], [3, 3]))
        x = scheduler.step(without + scale * (of_class - without), t, x).prev_sample
    assert torch.allclose(seen["a"]["latents"], x, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_guidance_1_and_0_are_the_two_networks_alone():
    ours = pipeline_of()
    for scale, labels in ((1, [1, 1]), (0, [3, 3])):
        alone = UnconditionalDiffusionPipeline(ours.unet, ours.scheduler)
        alone._predict = lambda x, t, labels=labels: network(ours, x, t, labels)
        alone.set_progress_bar_config(disable=True)
        expected = alone(2, seeded(), output_type="pt").images
        assert torch.equal(images(ours, [1, 1], guidance_scale=scale), expected)
    assert torch.equal(images(ours, [1, 1]), images(ours, [1, 1], guidance_scale=1))


def test_a_learned_variance_is_the_classes_own(monkeypatch):
    ours = pipeline_of(LinearDDPMScheduler(STEPS, variance_type="learned_range"), outputs=2)
    seen, step = [], ours.scheduler.step
    monkeypatch.setattr(ours.scheduler, "step", lambda output, *a, **kw: seen.append(output) or step(output, *a, **kw))
    images(ours, [2, 0], guidance_scale=2.5)
    x = torch.randn(2, 1, 8, 8, generator=seeded())
    of_class, without = (network(ours, x, STEPS - 1, labels) for labels in ([2, 0], [3, 3]))
    guided = without[:, :1] + 2.5 * (of_class[:, :1] - without[:, :1])
    assert torch.allclose(seen[0], torch.cat([guided, of_class[:, 1:]], 1), atol=1e-4)
    assert not torch.allclose(of_class[:, 1:], without[:, 1:], atol=1e-2)


@pytest.mark.slow
def test_names_and_numbers_and_tensors():
    ours = pipeline_of()
    assert ours.class_names == NAMES
    expected = images(ours, [2, 0, 1])
    for labels in (["cat", "ship", "frog"], ("cat", 0, 1), torch.tensor([2, 0, 1])):
        assert torch.equal(images(ours, labels), expected)
    assert torch.equal(images(ours, "frog"), images(ours, 1))
    assert images(ours, 1).shape == (1, 1, 8, 8)
    assert pipeline_of(names=None).class_names == ["0", "1", "2"]
    assert pipeline_of(names=None).label_numbers(["2", 1]) == [2, 1]


def test_a_word_of_digits_is_a_name_where_there_is_such_a_class():
    ours = pipeline_of(names=["1", "2", "7"])
    assert ours.label_numbers(["1", "2", "7"]) == [0, 1, 2]
    assert ours.label_numbers([1, 2, 0]) == [1, 2, 0]
    assert ours.label_numbers("0") == [0]
    assert pipeline_of().label_numbers(["2", "cat"]) == [2, 2]
    for label in ("3", 7):
        with pytest.raises(ValueError, match=r"use 0\.\.2, or a name of 1, 2, 7"):
            ours.label_numbers(label)


@pytest.mark.parametrize("scale", [1, 3.0])
def test_an_image_depends_on_its_own_label_and_generator_alone(scale):
    ours = pipeline_of()
    labels = [0, 1, 1, 2]
    mixed = images(ours, labels, [seeded(i) for i in (5, 6, 7, 5)], guidance_scale=scale)
    for i, seed in enumerate((5, 6, 7, 5)):
        alone = images(ours, labels[i], [seeded(seed)], guidance_scale=scale)
        assert torch.allclose(alone[0], mixed[i], atol=1e-4)
    assert not torch.allclose(mixed[0], mixed[3], atol=1e-3)
    assert not torch.allclose(mixed[1], mixed[2], atol=1e-2)


@pytest.mark.parametrize("label", [-1, 3, 10, "x", "", True, False, 1.5, None])
@pytest.mark.parametrize("many", [False, True])
def test_unknown_labels(label, many):
    with pytest.raises(ValueError, match=r"use 0\.\.2, or a name of ship, frog, cat"):
        pipeline_of()([0, label] if many else label)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": []}, "no class_labels: pass one for each image"),
        ({"class_labels": torch.tensor([0.5])}, r"use 0\.\.2"),
        ({"class_labels": 0, "guidance_scale": -0.5}, "guidance_scale=-0.5: use 0 or more"),
        ({"class_labels": 0, "guidance_scale": float("nan")}, "use 0 or more"),
        ({"class_labels": 0, "guidance_scale": float("inf")}, "use 0 or more"),
        ({"class_labels": [0, 1], "generator": [seeded()]}, "1 generators for batch_size=2"),
        ({"class_labels": 0, "num_inference_steps": 26}, r"use 1\.\.25"),
        ({"class_labels": 0, "eta": 0.5}, "has no eta"),
        ({"class_labels": 0, "output_type": "jpg"}, "choose one of pil, np, pt"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline_of()(**arguments)


def test_needs_a_network_of_classes_and_a_name_for_each():
    with pytest.raises(ValueError, match="told no classes"):
        ClassConditionalDDPMPipeline(unet_of(classes=None), LinearDDPMScheduler(STEPS))
    with pytest.raises(ValueError, match="2 class_names for 3 classes"):
        pipeline_of(names=["a", "b"])


def drawn(family, pipeline, count, first=0, batch_size=64, **options):
    """uint8 images, as signed integers."""
    family = get_family(family)
    sampler = family.sampler(pipeline, make_options(family.sampling_options, options, whose="this model"))
    device = torch.device("cpu")
    samples = draw_samples(sampler, device=device, num_images=count, first=first, batch_size=batch_size)
    return samples.images.int()


def test_samples_take_the_classes_in_turn():
    ours = partial(drawn, "class_conditional_ddpm", pipeline_of())
    every = ours(5, batch_size=2)
    again = ours(5, batch_size=5, class_labels=["ship", "frog", "cat"])
    assert (every - again).abs().max() <= 1
    # image i has the class i modulo their number, whatever the first one is
    assert (ours(2, first=3) - every[3:]).abs().max() <= 1
    cats = ours(3, class_labels=["cat"])
    assert (cats[2] - every[2]).abs().max() <= 1
    assert (cats[0] - every[0]).abs().max() > 1
    for bad, message in (({"class_labels": [3]}, "use 0"), ({"guidance_scale": -1.0}, "it must be from 0 to")):
        with pytest.raises(HfgenError, match=message):
            ours(1, **bad)
    plain = UnconditionalDiffusionPipeline(unet_of(classes=None), LinearDDPMScheduler(STEPS))
    for bad in ({"class_labels": [0]}, {"guidance_scale": 2.0}):
        with pytest.raises(HfgenError, match="leave it out"):
            drawn("ddpm", plain, 1, **bad)


STRANGER = """
import sys
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
generator, edited = torch.Generator().manual_seed(0), ()
if hasattr(pipeline, "class_names"):
    assert pipeline.class_names == ["ship", "frog", "cat"]
    result = pipeline(["cat", 0], guidance_scale=2.0, generator=generator, output_type="pt")
    if pipeline.scheduler.config.prediction_type != "mu":
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., 4:] = 1
        arguments = {"num_inference_steps": 5, "jump_length": 2, "jump_n_sample": 2, "output_type": "pt"}
        painted = pipeline.inpaint(result.images, mask, ["cat", 0], 2.0, generator=generator, **arguments).images
        assert torch.allclose(painted[..., :4], result.images[..., :4], atol=1e-6)
        walk = pipeline.interpolate(*result.images[:, None], "frog", steps=3, generator=generator, output_type="pt").images
        edited = painted, walk
else:
    result = pipeline(2, generator, 25, "pt")
if sys.argv[3:]:
    pipeline.save_pretrained(sys.argv[3])
torch.save((type(pipeline).__name__, type(pipeline.scheduler).__name__, result.images, edited), sys.argv[2])
"""


def by_a_stranger(stranger, folder, tmp_path, *save):
    """Class, scheduler, images and edited images by a process that has no hfgen."""
    done = stranger.run(STRANGER, folder, tmp_path / "images.pt", *save, token=None).check()
    assert "not expected" not in done.err
    return torch.load(tmp_path / "images.pt")


def poison(folder, tmp_path):
    """Let all code of the folder leave a mark when it is run."""
    files = sorted(folder.rglob("*.py"))
    for path in files:
        path.write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nraise SystemExit('poisoned')\n")
    return files


SCHEDULERS = {
    "linear": lambda: LinearDDPMScheduler(STEPS, prediction_type="v_prediction"),
    "mu": lambda: PosteriorMeanDDPMScheduler(STEPS, beta_end=0.5),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_saved_repositories_of_classes(kind, tmp_path, stranger):
    ours, generator = pipeline_of(SCHEDULERS[kind]()), seeded()
    expected = images(ours, ["cat", 0], generator, guidance_scale=2.0)
    saved = tmp_path / "saved"
    ours.save_pretrained(saved)
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_hfgen_class_conditional", "ClassConditionalDDPMPipeline"]
    assert index["class_names"] == {"0": "ship", "1": "frog", "2": "cat"}
    name, scheduler, found, edited = by_a_stranger(stranger, saved, tmp_path, tmp_path / "again")
    assert name == "ClassConditionalDDPMPipeline"
    assert scheduler == ("PosteriorMeanDDPMScheduler" if kind == "mu" else "DDPMScheduler")
    assert torch.allclose(found, expected, atol=1e-4)
    if kind != "mu":
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., 4:] = 1
        arguments = {"num_inference_steps": 5, "jump_length": 2, "jump_n_sample": 2, "output_type": "pt"}
        painted = ours.inpaint(expected, mask, ["cat", 0], 2.0, generator=generator, **arguments).images
        walk = ours.interpolate(*expected[:, None], "frog", steps=3, generator=generator, output_type="pt").images
        assert torch.allclose(edited[0], painted, atol=1e-3)
        assert torch.allclose(edited[1], walk, atol=1e-3)
    for folder in (saved, tmp_path / "again"):
        assert {path.name for path in poison(folder, tmp_path)} == {
            "pipeline_hfgen_class_conditional.py",
            *(["scheduling_hfgen_posterior_mean.py"] if kind == "mu" else []),
        }
        for loaded in (load(folder).pipeline, ClassConditionalDDPMPipeline.from_pretrained(folder)):
            loaded.set_progress_bar_config(disable=True)
            assert type(loaded) is ClassConditionalDDPMPipeline
            assert loaded.class_names == NAMES
            assert torch.allclose(images(loaded, ["cat", 0], guidance_scale=2.0), expected, atol=1e-4)
    assert not (tmp_path / "run").exists()


def test_names_of_many_classes_keep_their_order(tmp_path):
    names = [f"class {i * 7 % 12}" for i in range(12)]
    ours = ClassConditionalDDPMPipeline(unet_of(classes=12), LinearDDPMScheduler(STEPS), names)
    ours.save_pretrained(tmp_path)
    assert load(tmp_path).pipeline.class_names == names


def test_a_scheduler_that_nobody_has(tmp_path):
    pipeline_of().save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    path.write_text(path.read_text().replace('"DDPMScheduler"', '"MyScheduler"'))
    with pytest.raises(HfgenError, match="MyScheduler"):
        load(tmp_path)


def test_saved_repository_of_posterior_means_without_classes(tmp_path, stranger):
    ours = UnconditionalDiffusionPipeline(unet_of(classes=None), SCHEDULERS["mu"]())
    ours.set_progress_bar_config(disable=True)
    expected = ours(2, seeded(), 25, output_type="pt").images
    ours.save_pretrained(tmp_path / "saved")
    name, scheduler, found, _ = by_a_stranger(stranger, tmp_path / "saved", tmp_path)
    assert (name, scheduler) == ("DDPMPipeline", "PosteriorMeanDDPMScheduler")
    assert torch.allclose(found, expected, atol=1e-4)
    assert [path.name for path in poison(tmp_path / "saved", tmp_path)] == ["scheduling_hfgen_posterior_mean.py"]
    loaded = load(tmp_path / "saved").pipeline
    assert not (tmp_path / "run").exists()
    assert type(loaded) is UnconditionalDiffusionPipeline
    assert type(loaded.scheduler) is PosteriorMeanDDPMScheduler
    loaded.set_progress_bar_config(disable=True)
    assert torch.allclose(loaded(2, seeded(), 25, output_type="pt").images, expected, atol=1e-4)


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_stock_form_draws_the_same_images_without_guidance(tmp_path, outputs):
    variance = "learned_range" if outputs == 2 else "fixed_small"
    ours = pipeline_of(LinearDDPMScheduler(STEPS, variance_type=variance), outputs=outputs)
    ours.to_stock().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "ConsistencyModelPipeline"
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)
    drawn = stock(2, class_labels=[2, 0], generator=seeded(), num_inference_steps=STEPS, output_type="pt").images
    torch.testing.assert_close(drawn, images(ours, [2, 0], num_inference_steps=STEPS), rtol=0, atol=1e-5)


def test_a_prediction_of_mu_has_no_stock_form():
    with pytest.raises(ValueError, match="diffusers has no scheduler for it"):
        pipeline_of(PosteriorMeanDDPMScheduler(STEPS)).to_stock()
