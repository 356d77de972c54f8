"""Models that draw from words: trained, stock, sampled as stock diffusers does, measured by what was asked for."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file, save_file
from text_repositories import UNET, text_to_image

import hfgen
from hfgen.cli.main import main
from hfgen.core.errors import HfgenError
from hfgen.core.random import Stream, seeded
from hfgen.data.companions import Companions
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.loading import ImagesInMemory
from hfgen.families.text_to_image import TextToImage
from hfgen.families.text_to_image.building import build_module
from hfgen.families.text_to_image.flags import TextToImageSampling
from hfgen.families.text_to_image.prompts import prompts_on
from hfgen.families.text_to_image.task import TextToImageTask, cut_captions, sampling_scheduler
from hfgen.models.text_presets import build_text_encoder
from hfgen.models.tokenizer import build_tokenizer, token_ids
from hfgen.results import TrainingRecord
from hfgen.schedulers.noise import noise_scheduler

STEPS = {"scheduler": "ddim", "steps": 3, "guidance_scale": 2.0}
PROMPTS = ("a handwritten seven", "a handwritten two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_to_image(tmp_path_factory.mktemp("text") / "model", save_images_epochs=1)


@pytest.fixture(scope="module")
def model(folder):
    return hfgen.load(folder)


def refusal(action, *arguments, **values):
    with pytest.raises(HfgenError) as error:
        action(*arguments, **values)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_stock_diffusers_draws_the_same_pictures(folder, model):
    stock = DiffusionPipeline.from_pretrained(folder)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    stock.set_progress_bar_config(disable=True)
    generators = [seeded("cpu", 0, Stream.SAMPLES, i) for i in range(3)]
    wanted = stock(
        [PROMPTS[0], PROMPTS[1], PROMPTS[0]],
        generator=generators,
        num_inference_steps=3,
        guidance_scale=2.0,
        output_type="np",
    ).images
    found = hfgen.sample(model, num_images=3, prompt=PROMPTS, **STEPS).images
    assert found.shape == (3, 1, 8, 8)
    assert np.abs(found.permute(0, 2, 3, 1).numpy() / 255 - wanted).max() <= 1.01 / 255


STRANGER = """
import sys
sys.modules["hfgen"] = None
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
image = pipeline("a handwritten seven").images[0]
print(type(pipeline).__name__, image.size, image.mode, pipeline.safety_checker)
"""


@pytest.mark.slow
def test_a_stranger_without_hfgen_draws_from_words(folder):
    done = subprocess.run([sys.executable, "-c", STRANGER, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "StableDiffusionPipeline (8, 8) L None\n"
    assert "outdated" not in done.stderr


def test_image_i_is_of_prompt_i_whatever_the_batch(model):
    many = hfgen.sample(model, num_images=4, prompt=PROMPTS, trajectory=True, **STEPS)
    ones = hfgen.sample(model, num_images=4, batch_size=1, prompt=PROMPTS, **STEPS)
    assert (many.images.int() - ones.images.int()).abs().max() <= 1
    alone = hfgen.sample(model, num_images=4, prompt=PROMPTS[1], **STEPS)
    assert (many.images[3].int() - alone.images[3].int()).abs().max() <= 1
    assert many.trajectory.shape == (3, 4, 1, 8, 8)
    assert many.how == "ddim, 3 steps, 'a handwritten seven', 'a handwritten two', guidance 2"


def test_what_cannot_be_drawn(model):
    assert "pass --prompt TEXT" in refusal(hfgen.sample, model, num_images=1)
    assert "has 26 tokens, of which this model takes 16" in refusal(
        hfgen.sample, model, num_images=1, prompt="a handwritten hippopotamus of some sort"
    )
    assert "guidance_scale=0.5: of a model that draws from words" in refusal(
        hfgen.sample, model, num_images=1, prompt="a", guidance_scale=0.5
    )
    assert "leave it out" in refusal(hfgen.sample, model, num_images=1, prompt="a", compile=True)


def test_only_words_that_are_cut_are_told(capsys):
    tokenizer = build_tokenizer(["a b"])
    long = " ".join("abcdefghij" * 3)
    assert cut_captions(tokenizer, ["a", "b a"]) is None
    assert cut_captions(tokenizer, ["a", long, "b", long]) == (
        "2 of 4 captions have more than the 16 tokens that the text encoder takes, and are cut, the first of them row 1"
    )


def test_samples_are_asked_for_the_captions_of_held_out_images(model):
    result = hfgen.evaluate(model, samples=40, **STEPS)
    assert result.samples.how == "ddim, 3 steps, 10 prompts, guidance 2"
    accuracy = result.metrics["class_accuracy"]
    assert accuracy.standard_error == pytest.approx((accuracy.mean * (1 - accuracy.mean) / 39) ** 0.5, abs=1e-9)
    assert set(result.pictures.labels) <= {str(i) for i in range(10)}
    one = hfgen.evaluate(model, samples=8, prompt=("a handwritten two",), **STEPS)
    assert set(one.pictures.labels) == {"2"}
    assert "words" in refusal(hfgen.evaluate, model, likelihood=True)


def data_of(captions, of_classes):
    images = ImagesInMemory(torch.zeros(len(captions), 1, 8, 8, dtype=torch.uint8))
    told = Companions(captions=captions, class_captions=of_classes)
    return EvaluationImages(images=images, labels=None, class_names=["0", "1"], companions=told)


def test_classes_that_prompts_stand_for():
    data = data_of(["one", "zero", "one"], ["zero", "one"])
    assert prompts_on(TextToImageSampling(), data).labels == (1, 0, 1)
    assert prompts_on(TextToImageSampling(prompt=("zero",)), data).labels == (0,)
    free = prompts_on(TextToImageSampling(prompt=("a horse",)), data)
    assert (free.prompt, free.labels, free.class_names) == (("a horse",), None, None)
    assert prompts_on(TextToImageSampling(), data_of(["a", "b"], None)).prompt == ("a", "b")


def test_its_card_and_pictures(folder, model, tmp_path, capsys):
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-to-image" in card
    assert 'image = pipeline("a handwritten seven").images[0]' in card
    assert "--prompt 'a handwritten seven' --out samples.png" in card
    assert TrainingRecord.load(folder / "training.json").data["caption_template"] == "a handwritten {}"
    assert main(["figures", str(folder), "--max_images", "20", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "samples.png").is_file()
    assert (
        main(["sample", str(folder), "--prompt", *PROMPTS, "--num_images=2", "--steps=2", f"--out={tmp_path}/a"]) == 0
    )
    assert sorted(path.name for path in (tmp_path / "a").glob("*.png")) == ["00000.png", "00001.png"]


# -- the training


def task(**changes):
    tokenizer = build_tokenizer(["zero", "one"])
    values = {
        "tokens": token_ids(tokenizer, ["zero", "one", "zero", "one"]),
        "held_out_tokens": token_ids(tokenizer, ["one"]),
        "null_tokens": token_ids(tokenizer, [""])[0],
        "caption_dropout": 0.25,
        **changes,
    }
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
    unused = dict.fromkeys((*names, "prompts", "class_names", "module"))
    return TextToImageTask(**{**unused, **values})


def test_captions_are_withheld_from_their_share_of_the_rows():
    own = task()
    batch = SimpleNamespace(
        rows=torch.tensor([3, 0, 2]), random={"caption_dropout": torch.tensor([0.9, 0.1, 0.25])}, data=torch.zeros(3)
    )
    found = own.condition(batch)["input_ids"]
    assert torch.equal(found, torch.stack([own.tokens[3], own.null_tokens, own.tokens[2]]))
    held_out = own.held_out_condition(SimpleNamespace(rows=torch.tensor([0, 0]), data=torch.zeros(2)))
    assert torch.equal(held_out["input_ids"], own.held_out_tokens[[0, 0]])


def test_the_stored_scheduler_keeps_the_noise_and_clips_nothing():
    trained = noise_scheduler("squaredcos_cap_v2", 1000, "v_prediction")
    stored = sampling_scheduler(trained)
    assert torch.allclose(stored.alphas_cumprod, trained.alphas_cumprod)
    assert (stored.config.clip_sample, stored.config.prediction_type) == (False, "v_prediction")
    stored.set_timesteps(50)
    assert stored.timesteps[0] == 999


def weights_of(folder, part):
    name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    return load_file(folder / part / f"{name}.safetensors")


@pytest.mark.slow
def test_training_goes_on_with_both_networks_and_the_autoencoder_as_it_was(folder, tmp_path):
    further = text_to_image(tmp_path / "further", pretrained_model_name_or_path=folder, learning_rate=1e-2)
    assert hfgen.load(further).family.name == "text_to_image"
    for part, changed in (("vae", False), ("unet", True), ("text_encoder", True)):
        one, other = weights_of(folder, part), weights_of(further, part)
        assert one.keys() == other.keys()
        assert any(not torch.equal(one[key], other[key]) for key in one) == changed
        # with the moving average of 4 steps they are still near what they were
        assert all(torch.allclose(one[key], other[key], atol=0.1) for key in one)


@pytest.mark.slow
def test_a_frozen_text_encoder_stays_as_it_is(folder, tmp_path):
    frozen = text_to_image(tmp_path / "frozen", autoencoder=folder, text_encoder=folder, max_train_steps=2)
    one, other = weights_of(folder, "text_encoder"), weights_of(frozen, "text_encoder")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not [key for key in load_file(frozen / "checkpoint-2/model.safetensors") if "text" in key]


def test_a_frozen_text_encoder_sets_what_the_noise_predictor_is_told(tmp_path):
    tokenizer = build_tokenizer(["zero"])
    build_text_encoder(tokenizer, 12).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = SimpleNamespace(model=SimpleNamespace(text_encoder=str(tmp_path)))
    built = build_module(config, {**UNET, "cross_attention_dim": 8}, SimpleNamespace(channels=2, resolution=4), None)
    assert built.unet.config.cross_attention_dim == 12
    assert {name.split(".")[0] for name, _ in built.named_parameters()} == {"unet"}
    ids = token_ids(built.tokenizer, ["zero", ""])
    x = torch.randn(2, 2, 4, 4, generator=seeded("cpu", 0))
    with torch.no_grad():
        states = built.text_encoder(ids)[0]
        wanted = built.unet(x, 5, encoder_hidden_states=states).sample
        assert torch.equal(built(x, torch.tensor(5), input_ids=ids)[0], wanted)


def test_weights_of_half_precision_are_loaded_as_whole_ones(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "half")
    for path in tmp_path.glob("half/*/*.safetensors"):
        if path.parent.name in ("unet", "vae", "text_encoder"):
            save_file({key: value.half() for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
    model = hfgen.load(tmp_path / "half")
    assert {part.dtype for part in (model.pipeline.unet, model.pipeline.vae, model.pipeline.text_encoder)} == {
        torch.float32
    }
    assert hfgen.sample(model, num_images=1, prompt="a", **STEPS).images.shape == (1, 1, 8, 8)


def test_which_repositories_it_claims(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert TextToImage().claims(index)
    assert not TextToImage().claims({**index, "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]})
    assert not TextToImage().claims({**index, "_class_name": "StableDiffusionControlNetPipeline"})


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"autoencoder": "none"}, "autoencoder='none' cannot be loaded"),
        (
            {"resolution": 12},
            "images of 12x12: StableDiffusionPipeline draws sides that are multiples of 8 alone, pass --resolution 16",
        ),
        ({"text_encoder": "none"}, "text_encoder='none' cannot be loaded"),
        ({"caption_template": "a digit"}, "needs one {}"),
    ],
)
def test_trainings_that_cannot_be(folder, tmp_path, flags, says, offline):
    given = {"autoencoder": folder.with_name("autoencoder"), **flags}
    assert says in refusal(text_to_image, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
