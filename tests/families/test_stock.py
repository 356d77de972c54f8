"""Pipelines of diffusers that no other family knows: drawn by their own call, measured by their samples."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from stock_repositories import change, unet
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import hfgen
from hfgen.cli.main import main
from hfgen.core.errors import HfgenError
from hfgen.core.random import Stream, seeded
from hfgen.families.registry import family_of, get_family

VAE = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
    "block_out_channels": [4, 4],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 2,
    "layers_per_block": 1,
    "sample_size": 8,
}


def vae():
    torch.manual_seed(2)
    return AutoencoderKL(**VAE)


def latent(folder, scheduler):
    """Latent diffusion of 8x8 images on 4x4 latents."""
    LDMPipeline(vae(), unet(sample_size=4, in_channels=2), scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    """A transformer told one of 1000 classes, the first three of which have names."""
    torch.manual_seed(3)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=2,
        out_channels=2,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    torch.nn.init.normal_(transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight)
    for parameter in transformer.proj_out_2.parameters():
        torch.nn.init.normal_(parameter)
    pipeline = DiTPipeline(transformer, vae(), DDIMScheduler(50))
    folder = tmp_path_factory.mktemp("dit") / "dit"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Stable Diffusion of 8x8 images, told letters, with a part more than a text-to-image model of hfgen has."""
    folder = tmp_path_factory.mktemp("words")
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    torch.manual_seed(4)
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    network = UNet2DConditionModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=network,
        scheduler=DDIMScheduler(50),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(),
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "letters")
    return folder / "letters"


def refusal(call, *args, **kwargs):
    with pytest.raises(HfgenError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def stock(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def uint8(images):
    return torch.from_numpy(np.rint(np.asarray(images) * 255)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("scheduler", [DDIMScheduler(50), DDPMScheduler(50)])
def test_latent_diffusion(tmp_path, scheduler):
    """Its call passes no generator to the scheduler, whose noise is torch's global one: that of the image all the same."""
    folder = latent(tmp_path / "latent", scheduler)
    model = hfgen.load(folder)
    assert (model.family.name, model.image_shape) == ("stock", (1, 8, 8))
    samples = hfgen.sample(model, num_images=5, batch_size=5, steps=4)
    assert samples.how == "LDMPipeline, 4 steps"
    for i in range(3):
        generator = seeded("cpu", 0, Stream.SAMPLES, i)
        torch.manual_seed(generator.initial_seed())
        expected = stock(folder)(1, generator, num_inference_steps=4, output_type="np").images
        assert (samples.images[i : i + 1] - uint8(expected)).abs().max() <= 1
    before = torch.get_rng_state()
    for options in ({"batch_size": 2}, {"batch_size": 1, "num_images": 3}):
        again = hfgen.sample(model, **{"num_images": 5, "steps": 4, **options}).images
        assert (again.int() - samples.images[: len(again)].int()).abs().max() <= 1
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_measured_by_its_samples_alone(tmp_path, capsys):
    folder = latent(tmp_path / "latent", DDIMScheduler(50))
    message = refusal(hfgen.evaluate, folder, dataset_name="digits")
    assert "hfgen knows no likelihood of such a pipeline of diffusers" in message
    words = [
        "evaluate",
        str(folder),
        "--dataset_name=digits",
        "--samples=100",
        "--steps=2",
        f"--out={tmp_path / 'r.json'}",
    ]
    assert main(words) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["family"], result["samples"]["how"]) == ("stock", "LDMPipeline, 2 steps")


def test_classes_of_a_transformer(dit):
    model = hfgen.load(dit)
    assert model.family.name == "stock"
    samples = hfgen.sample(model, num_images=4, steps=3, class_labels=("7", "8"), guidance_scale=2.0, batch_size=4)
    assert samples.how == "DiTPipeline, 3 steps, guidance 2, classes 7, 8"
    generators = [seeded("cpu", 0, Stream.SAMPLES, i) for i in range(4)]
    expected = stock(dit)([7, 8, 7, 8], 2.0, generators, 3, "np").images
    assert (samples.images - uint8(expected)).abs().max() <= 1
    assert not torch.equal(hfgen.sample(model, num_images=1, steps=3, class_labels=("9",)).images, samples.images[:1])
    assert "use 0..999" in refusal(hfgen.sample, model, num_images=1, class_labels=("1000",))
    assert hfgen.sample(model, num_images=2, steps=2).how == "DiTPipeline, 2 steps, classes in turn"


def test_names_of_classes(dit, tmp_path):
    pipeline = stock(dit)
    pipeline.register_to_config(id2label={str(i): f"digit {i}" for i in range(3)})
    pipeline.save_pretrained(tmp_path / "named")
    model = hfgen.load(tmp_path / "named")
    named = hfgen.sample(model, num_images=1, steps=2, class_labels=("digit 2",)).images
    assert torch.equal(named, hfgen.sample(model, num_images=1, steps=2, class_labels=("2",)).images)
    assert "use 0..2, or a name" in refusal(hfgen.sample, model, num_images=1, class_labels=("3",))


def test_words(words):
    model = hfgen.load(words)
    assert model.image_shape == (1, 8, 8)
    assert "StableDiffusionPipeline draws from words: pass --prompt TEXT" in refusal(hfgen.sample, model, num_images=1)
    samples = hfgen.sample(model, num_images=2, steps=2, prompt="a b", guidance_scale=3.0)
    assert samples.how == "StableDiffusionPipeline, 2 steps, guidance 3, 'a b'"
    generators = [seeded("cpu", 0, Stream.SAMPLES, i) for i in range(2)]
    expected = stock(words)(
        ["a b"] * 2, num_inference_steps=2, guidance_scale=3.0, generator=generators, output_type="np"
    )
    assert (samples.images - uint8(expected.images)).abs().max() <= 1
    assert not torch.equal(
        samples.images, hfgen.sample(model, num_images=2, steps=2, prompt="c", guidance_scale=3.0).images
    )


def test_options_that_a_call_does_not_take(tmp_path, dit):
    folder = latent(tmp_path / "latent", DDIMScheduler(50))
    for name, option in (("class_labels", ("1",)), ("guidance_scale", 2.0), ("prompt", "a")):
        assert f"--{name}: LDMPipeline takes none" in refusal(hfgen.sample, folder, num_images=1, **{name: option})
    assert "--prompt: DiTPipeline takes none" in refusal(hfgen.sample, dit, num_images=1, prompt="a")
    assert "hfgen calls LDMPipeline as it is" in refusal(hfgen.sample, folder, num_images=1, compile=True)
    assert "--eta" in refusal(hfgen.sample, folder, num_images=1, eta=0.5)


def test_its_card_and_figures(tmp_path, capsys):
    folder = latent(tmp_path / "latent", DDIMScheduler(4))
    assert main(["card", str(folder)]) == 0, capsys.readouterr().err
    card = (folder / "README.md").read_text()
    assert "A LDMPipeline of diffusers, of AutoencoderKL, UNet2DModel, DDIMScheduler" in card
    assert main(["figures", str(folder), "--dataset_name=digits", f"--out={tmp_path / 'figures'}"]) == 0
    assert (tmp_path / "figures/samples.png").is_file()


def test_all_weights_belong_to_what_results_depend_on(tmp_path):
    folder = latent(tmp_path / "latent", DDIMScheduler(50))
    before = hfgen.load(folder).identity()
    assert before == hfgen.load(folder).identity()
    for part in ("vqvae", "unet"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        tensors = load_file(path)
        first = next(iter(tensors))
        save_file({**tensors, first: tensors[first] + 1}, path)
        assert hfgen.load(folder).identity() != before
        save_file({**tensors, first: tensors[first] * torch.nan}, path)
        assert f"the weights of {part} are not finite ({first}" in refusal(hfgen.load, folder)
        save_file(tensors, path)


def test_a_trajectory_and_a_variant(tmp_path):
    LDMPipeline(vae(), unet(sample_size=4, in_channels=2), DDIMScheduler(50)).save_pretrained(tmp_path, variant="fp16")
    model = hfgen.load(tmp_path)
    assert model.variant == "fp16"
    assert "or tells of none" in refusal(hfgen.sample, model, num_images=1, trajectory=True)


def test_code_of_a_stock_repository_is_not_run(tmp_path):
    folder = latent(tmp_path / "latent", DDIMScheduler(50))
    (folder / "vqvae/evil.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\nclass Evil: pass\n")
    change(folder / "model_index.json", vqvae=["evil", "Evil"])
    assert "brings code of its own, which hfgen does not run (vqvae: evil.Evil)" in refusal(hfgen.load, folder)
    change(folder / "model_index.json", vqvae=["stable_diffusion", "StableDiffusionSafetyChecker"])
    (folder / "vqvae/stable_diffusion.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    assert "brings code of its own" in refusal(hfgen.load, folder)
    assert not (tmp_path / "proof").exists()


def test_it_comes_last_and_claims_what_diffusers_has_alone():
    unet_and_scheduler = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    assert family_of({"_class_name": "DDPMPipeline", **unet_and_scheduler}, "x") is get_family("ddpm")
    stock = get_family("stock")
    assert stock.claims({"_class_name": "DDPMPipeline", **unet_and_scheduler})
    for index in (
        {"_class_name": "NoPipeline", **unet_and_scheduler},
        {"_class_name": "DDPMPipeline", "vae": ["diffusers", "AutoencoderKL"], **unet_and_scheduler},
        {"_class_name": ["evil", "DDPMPipeline"], **unet_and_scheduler},
        {"_class_name": "UNet2DModel", **unet_and_scheduler},
    ):
        assert not stock.claims(index)


def test_a_call_that_fails_is_told_in_a_line(tmp_path):
    folder = latent(tmp_path / "latent", DDIMScheduler(50))
    change(folder / "scheduler/scheduler_config.json", prediction_type="x")
    assert "LDMPipeline does not draw with" in refusal(hfgen.sample, folder, num_images=1)
    assert "is not trained by" in refusal(hfgen.train, "labelled_ddpm", output_dir=tmp_path / "out")
    assert "does not train them" in refusal(hfgen.train, "stock", output_dir=tmp_path / "out")
