"""ControlNets on a frozen text-to-image model: at first it draws as before, then it follows, and how well is measured."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionControlNetPipeline
from latent_repositories import run, save_autoencoder
from PIL import Image
from safetensors.torch import load_file
from text_repositories import WORDS, save_untrained

import hfgen
from hfgen.cli.main import main
from hfgen.core.errors import HfgenError
from hfgen.core.media import to_pil
from hfgen.core.random import Stream, seeded
from hfgen.data.conditions import Conditions, transformed
from hfgen.families.controlnet.building import build_controlled, with_captions_of
from hfgen.families.controlnet.measure import f1_within_a_pixel, kept, kept_metrics, psnr
from hfgen.families.controlnet.module import as_condition
from hfgen.families.controlnet.sampler import read_controls
from hfgen.families.controlnet.task import ControlTask
from hfgen.families.text_to_image.sampler import TextSampler
from hfgen.library import training_config

STEPS = {"scheduler": "ddim", "steps": 3, "guidance_scale": 2.0}
PROMPT = "a handwritten seven"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("control") / "base")


@pytest.fixture(scope="module")
def folder(base):
    asked = {"pretrained_model_name_or_path": base, "condition": "skeleton", "learning_rate": 1e-2, **WORDS}
    return run(base.with_name("controlnet"), "controlnet", **asked)


@pytest.fixture(scope="module")
def model(folder):
    return hfgen.load(folder)


@pytest.fixture
def pictures(tmp_path):
    """Files of a white and of a black picture."""
    for name, value in (("white", 255), ("black", 0)):
        Image.new("L", (8, 8), value).save(tmp_path / f"{name}.png")
    return str(tmp_path / "white.png"), str(tmp_path / "black.png")


def refusal(action, *arguments, **values):
    with pytest.raises(HfgenError) as error:
        action(*arguments, **values)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_controlled_lies_beside_it_as_it_was(base, folder):
    for part in ("unet", "vae", "text_encoder"):
        (one,), (other,) = (list((place / part).glob("*.safetensors")) for place in (base, folder))
        one, other = load_file(one), load_file(other)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), part
    assert [name.name for name in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    assert all(key.startswith("controlnet.") for key in load_file(folder / "checkpoint-4/model.safetensors"))


def test_captions_are_by_default_those_that_the_model_was_trained_with(folder, tmp_path):
    base = SimpleNamespace(folder=folder)
    config = training_config("controlnet", condition="canny")
    assert with_captions_of(config, base).data == replace(config.data, **WORDS)
    assert with_captions_of(config, SimpleNamespace(folder=tmp_path)) == config
    own = training_config("controlnet", condition="canny", caption_column="text")
    assert with_captions_of(own, base) == own


def test_a_new_controlnet_changes_nothing(base):
    """Zhang et al. 2023, section 3.1: zero convolutions."""
    plain = hfgen.load(base)
    images = SimpleNamespace(channels=2, resolution=4, representation=SimpleNamespace(autoencoder=plain.pipeline.vae))
    controlled = build_controlled(images, hfgen.load(base))
    x, ids = torch.randn(2, 2, 4, 4, generator=seeded("cpu", 0)), torch.tensor([[3, 1], [1, 1]])
    with torch.no_grad():
        states = plain.pipeline.text_encoder(ids)[0]
        wanted = plain.pipeline.unet(x, 7, encoder_hidden_states=states).sample
        found = controlled(x, torch.tensor(7), input_ids=ids, controlnet_cond=torch.rand(2, 3, 8, 8))[0]
    assert torch.equal(found, wanted)
    assert {name.split(".")[0] for name, _ in controlled.named_parameters()} == {"controlnet"}


def test_without_control_it_draws_as_the_model_did(base, model, pictures):
    plain = hfgen.sample(hfgen.load(base), num_images=2, prompt=PROMPT, **STEPS)
    off = hfgen.sample(model, num_images=2, prompt=PROMPT, control=pictures[0], control_scale=0.0, **STEPS)
    assert (plain.images.int() - off.images.int()).abs().max() <= 1
    on = hfgen.sample(model, num_images=2, prompt=PROMPT, control=pictures[0], **STEPS)
    assert (plain.images.int() - on.images.int()).abs().max() > 1
    assert on.how == "ddim, 3 steps, 'a handwritten seven', guidance 2, after 1 picture"


def test_stock_diffusers_draws_the_same_pictures(folder, model, pictures):
    stock = StableDiffusionControlNetPipeline.from_pretrained(folder)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    stock.set_progress_bar_config(disable=True)
    wanted = stock(
        [PROMPT] * 2,
        image=[Image.open(path).convert("RGB") for path in pictures],
        generator=[seeded("cpu", 0, Stream.SAMPLES, i) for i in range(2)],
        num_inference_steps=3,
        guidance_scale=2.0,
        output_type="np",
    ).images
    found = hfgen.sample(model, num_images=2, prompt=PROMPT, control=pictures, **STEPS).images
    assert np.abs(found.permute(0, 2, 3, 1).numpy() / 255 - wanted).max() <= 1.01 / 255


STRANGER = """
import sys
sys.modules["hfgen"] = None
from diffusers import DiffusionPipeline
from PIL import Image
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
image = pipeline("a handwritten seven", image=Image.new("RGB", (8, 8)), num_inference_steps=2).images[0]
print(type(pipeline).__name__, image.size, image.mode)
"""


@pytest.mark.slow
def test_a_stranger_without_hfgen_draws_after_a_picture(folder):
    done = subprocess.run([sys.executable, "-c", STRANGER, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "StableDiffusionControlNetPipeline (8, 8) L\n"


def test_what_cannot_be_drawn(model, pictures, tmp_path):
    Image.new("L", (16, 8)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    asked = {"num_images": 1, "prompt": PROMPT, **STEPS}
    assert "pass --control IMAGE" in refusal(hfgen.sample, model, **asked)
    assert "wide.png is of 16x8 pixels, and the model's images of 8x8" in refusal(
        hfgen.sample, model, control=str(tmp_path / "wide.png"), **asked
    )
    assert "text.png is no picture" in refusal(hfgen.sample, model, control=str(tmp_path / "text.png"), **asked)
    assert "pass --prompt TEXT" in refusal(hfgen.sample, model, num_images=1, control=pictures[0], **STEPS)


def test_files_to_follow_are_read_as_the_trainers_read_pictures(model, tmp_path):
    """16 bits are not cut at 255, what is transparent is white, and phones turn pictures by a tag."""
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 257
    Image.fromarray(levels).save(tmp_path / "deep.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    tag = Image.Exif()
    tag[0x0112] = 3  # upside down
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "turned.png", exif=tag)
    files = [tmp_path / f"{name}.png" for name in ("deep", "clear", "turned")]
    deep, clear, turned = read_controls(tuple(map(str, files)), (1, 8, 8))[:, 0]
    assert deep.flatten().tolist() == list(range(64))
    assert (clear == 255).all()
    assert turned.flatten().tolist() == list(reversed(range(64)))
    drawn = [hfgen.sample(model, prompt=PROMPT, control=told, seed=0, **STEPS) for told in (files[1], [str(files[1])])]
    assert torch.equal(drawn[0].images, drawn[1].images)
    for nothing in ("prompt", "control"):
        given = {"prompt": PROMPT, "control": files[1], nothing: []}
        assert f"{nothing}: there is none in it: name one or more" in refusal(hfgen.sample, model, **given, **STEPS)


def test_a_folder_of_samples_knows_the_pictures_that_they_follow(folder, pictures, tmp_path, capsys):
    words = ["sample", str(folder), "--prompt", PROMPT, "--control", pictures[0], "--num_images=1", "--steps=2"]
    assert main([*words, f"--out={tmp_path}/drawn"]) == 0
    assert main([*words, f"--out={tmp_path}/drawn"]) == 0
    assert "1 of them were there already" in capsys.readouterr().out
    Image.new("L", (8, 8), 128).save(pictures[0])
    assert main([*words, f"--out={tmp_path}/drawn"]) == 1
    assert "images of another work (followed differ)" in capsys.readouterr().err


def test_trainings_that_cannot_be(base, tmp_path, offline):
    def training(**flags):
        return refusal(run, tmp_path / "out", "controlnet", condition="canny", **flags)

    assert "nothing to control is named: pass --pretrained_model_name_or_path" in training()
    vae = save_autoencoder(tmp_path / "autoencoder")
    assert "a ControlNet controls a text-to-image model" in training(pretrained_model_name_or_path=vae)
    said = refusal(run, tmp_path / "out", "controlnet", pretrained_model_name_or_path=base)
    assert "pass --condition canny, skeleton, low_resolution" in said
    assert "leave --resolution out" in training(pretrained_model_name_or_path=base, resolution=16)
    assert not (tmp_path / "out").exists()


def test_its_process_is_that_of_the_controlled_model_whatever_its_betas(base, tmp_path, offline):
    """No flag of hfgen's says betas that end at 0.03."""
    asked = {"condition": "skeleton", **WORDS}
    folder = shutil.copytree(base, tmp_path / "base")
    betas = {"beta_schedule": "scaled_linear", "beta_end": 0.03, "clip_sample": False}
    DDIMScheduler(50, **betas).save_pretrained(folder / "scheduler")
    out = run(tmp_path / "out", "controlnet", pretrained_model_name_or_path=folder, **asked)
    assert json.loads((out / "scheduler" / "scheduler_config.json").read_text())["beta_end"] == 0.03
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "FlowMatchEulerDiscreteScheduler"))
    said = refusal(run, tmp_path / "flow", "controlnet", pretrained_model_name_or_path=folder, **asked)
    assert "does not run a DDPM's process" in said


def test_how_well_samples_keep_the_pictures_is_measured_with_and_without(model, folder):
    result = hfgen.evaluate(model, samples=24, **STEPS)
    assert result.samples.how == "ddim, 3 steps, 10 prompts, guidance 2, after 24 pictures"
    on, off = (result.metrics[f"control_f1{key}"] for key in ("", "_uncontrolled"))
    assert 0 <= on.mean <= 1
    assert on.standard_error > 0
    assert on.mean != off.mean
    assert (folder / "control_samples.png").is_file()
    card = (folder / "README.md").read_text()
    assert "the skeleton of what is lighter than half" in card
    assert "control_samples.png" in card


def test_images_keep_their_own_pictures_wholly():
    images = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, best in (("canny", 1.0), ("skeleton", 1.0), ("low_resolution", 10 * np.log10(255**2 * 12))):
        values = kept(images, transformed(images, name), name)
        assert values.tolist() == pytest.approx([best] * 5)


def brute_force(found, wanted):
    def share(points, others):
        points, others = np.argwhere(points), np.argwhere(others)
        near = [any(max(abs(p - q)) <= 1 for q in others) for p in points]
        return np.mean(near) if len(near) else 0.0

    if not found.any() and not wanted.any():
        return 1.0
    precision, recall = share(found, wanted), share(wanted, found)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def test_f1_within_a_pixel_against_all_pairs_of_points():
    generator = torch.Generator().manual_seed(1)
    found, wanted = (torch.rand(8, 9, 7, generator=generator) < 0.08 for _ in range(2))
    found[0], found[1], wanted[1], wanted[2] = False, False, False, False
    expected = [brute_force(one.numpy(), other.numpy()) for one, other in zip(found, wanted, strict=True)]
    assert f1_within_a_pixel(found, wanted).tolist() == pytest.approx(expected)
    assert expected[:2] == [0, 1]
    assert 0 < expected[3] < 1


def test_psnr():
    one = torch.full((2, 1, 4, 4), 100, dtype=torch.uint8)
    other = one.clone()
    other[0] += 10
    other[1, 0, 0, 0] += 16
    assert psnr(one, other).tolist() == pytest.approx([10 * np.log10(255**2 / 100), 10 * np.log10(255**2 / 16)])
    found = kept_metrics(torch.tensor([1.0, 3.0]).double(), torch.tensor([1.0, 1.0]).double(), "low_resolution")
    assert (found["control_psnr"].mean, found["control_psnr"].unit) == (2.0, "dB")
    assert found["control_psnr"].standard_error == pytest.approx(1.0)
    assert found["control_psnr_uncontrolled"].mean == 1.0


def test_pictures_are_mirrored_with_their_images():
    pictures = torch.arange(2 * 16, dtype=torch.uint8).view(2, 1, 4, 4)
    names = (
        "scheduler",
        "objective",
        "times",
        "shape",
        "num_inference_steps",
        "batch_size",
        "seed",
        "ylabel",
        "autoencoder",
    )
    unused = dict.fromkeys((*names, "prompts", "class_names", "module", "held_out_tokens", "held_out_conditions"))
    words = {
        "tokens": torch.zeros(2, 3, dtype=torch.long),
        "null_tokens": torch.ones(3, dtype=torch.long),
        "caption_dropout": 0.0,
    }
    own = ControlTask(**unused, **words, conditions=Conditions(images=pictures, transform=None), mirrored=True)
    random = {"flip": torch.tensor([0.7, 0.2]), "caption_dropout": torch.zeros(2)}
    found = own.condition(SimpleNamespace(rows=torch.tensor([1, 1]), random=random, data=torch.zeros(2)))[
        "controlnet_cond"
    ]
    assert torch.equal(found[0], as_condition(pictures[1:]).flip(-1)[0])
    assert torch.equal(found[1], as_condition(pictures[1:])[0])


def test_the_picture_a_pipeline_makes_of_a_file_is_what_was_trained_on(model):
    grey = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    (file,) = to_pil(grey)
    made = model.pipeline.control_image_processor.preprocess(file, height=8, width=8)
    assert torch.allclose(made, as_condition(grey), atol=1e-6)
    assert isinstance(model.family.sampler(model.pipeline, model.family.sampling_options()), TextSampler)
