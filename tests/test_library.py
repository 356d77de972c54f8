"""hfgen from Python: what is asked for in words of Python, and what is refused."""

import subprocess
import sys

import pytest
import torch
from drawing import model_of
from PIL import Image

import hfgen
from hfgen.models import MLPVAE
from hfgen.pipelines import VAEPipeline

HEAVY = (
    "import sys, hfgen\nprint(sorted({'torch', 'diffusers', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("library") / "tiny"
    vae = MLPVAE(sample_size=8, latent_size=2, hidden_sizes=(8,), likelihood="discretized_logistic")
    VAEPipeline(vae).save_pretrained(folder)
    return folder


def test_importing_hfgen_imports_nothing_else():
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert all(getattr(hfgen, name) is not None for name in hfgen.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hfgen.nothing


def test_a_model_tells_what_it_is(folder):
    model = hfgen.load(folder, device="cpu")
    assert (model.name, model.family.name, model.image_shape) == ("tiny", "vae", (1, 8, 8))
    assert model.parameters == sum(p.numel() for p in model.pipeline.vae.parameters())
    assert "8x8 grey images" in model._repr_html_()
    hfgen.load(folder)._repr_html_()


def test_samples_by_words_or_by_a_configuration(folder, tmp_path):
    model = hfgen.load(folder)
    by_words = hfgen.sample(model, num_images=5, seed=2, sample_pixels=True)
    config = hfgen.SamplingConfig(num_images=5, seed=2, options={"sample_pixels": True})
    assert torch.equal(by_words.images, hfgen.sample(model, config).images)
    assert torch.equal(by_words.images[:3], hfgen.sample(str(folder), config, num_images=3).images)
    assert not torch.equal(by_words.images, hfgen.sample(model, config, sample_pixels=False).images)
    assert by_words.how == "draws from p(x|z)"
    assert by_words._repr_png_().startswith(b"\x89PNG")
    by_words.save(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == by_words.grid().size
    with pytest.raises(hfgen.HfgenError, match="no trajectory: sample with trajectory=True"):
        by_words.save_trajectory(tmp_path / "t.gif")
    with pytest.raises(hfgen.HfgenError, match="trajectory: this model draws an image in one step"):
        hfgen.sample(model, trajectory=True)


def test_results_from_python(folder, tmp_path):
    result = hfgen.evaluate(folder, dataset_name="digits", iw_samples=3, max_images=20)
    config = hfgen.EvaluationConfig(dataset_name="digits", max_images=20, options={"iw_samples": 3})
    assert hfgen.evaluate(folder, config).metrics == result.metrics
    result.save(tmp_path / "r.json")
    assert hfgen.EvaluationResult.load(tmp_path / "r.json").metrics == result.metrics


@pytest.mark.slow
def test_a_comparison_from_python(folder, tmp_path):
    other = tmp_path / "other"
    hfgen.load(folder).pipeline.save_pretrained(other)
    settings = {"dataset_name": "digits", "samples": 70, "max_images": 10, "iw_samples": 2, "repeat": 1}
    comparison = hfgen.compare([folder, other], **settings)
    assert list(comparison.results) == ["tiny", "other"]
    assert comparison.results["tiny"].metrics == comparison.results["other"].metrics
    assert "<table>" in comparison._repr_html_()
    assert len(comparison.plot().axes) == 3  # real images first
    assert list(tmp_path.glob(".*")) == []
    comparison.save(tmp_path / "page.html")
    assert (tmp_path / "page.md").read_text().startswith("|  | tiny | other |")
    with pytest.raises(hfgen.HfgenError, match=r"--temperature: none of tiny, other has such a choice"):
        hfgen.compare([folder, other], **settings, temperature=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: hfgen.sample(m, steps=3), r"--steps: model \(VAE\) has no such choice: leave it out"),
        (lambda m: hfgen.sample(m, num_images=0), "num_images=0: it must be greater than 0"),
        (lambda m: hfgen.evaluate(m, samples=1), "samples=1: it must be 2 or greater"),
        (lambda m: hfgen.evaluate(m, sample_pixels=True), "--sample_pixels: only with --samples"),
        (lambda m: hfgen.compare([]), "no model alone: name two or more"),
        (lambda m: hfgen.train("pixelcnn"), "family 'pixelcnn': choose one of"),
        (lambda m: hfgen.train("vae", steps=3), "steps: the trainer of vae has no such flag"),
        (lambda m: hfgen.train("vae", seed=-1), "seed=-1: it must be"),
        (lambda m: hfgen.train(hfgen.training_config("vae"), seed=1), "seed: pass flags with the name of a family"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(folder, call, message):
    with pytest.raises(hfgen.HfgenError, match=message) as told:
        call(model_of(hfgen.load(folder).pipeline))
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_a_training_shows_itself(tmp_path):
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    training = hfgen.train(
        "vae",
        dataset_name="digits",
        model_config_name_or_path="digits",
        max_train_steps=4,
        logging_steps=2,
        save_images_epochs=0,
        train_batch_size=50,
        eval_batch_size=100,
        logger="none",
        output_dir=tmp_path / "out",
    )
    assert training.record.family == "vae"
    assert [row["step"] for row in training.history if "train_loss" in row] == [2, 4]
    assert len(training.plot().axes) == 3  # the loss and its two terms
    assert "4 steps of 50 images" in training._repr_html_()
    assert training.model().family.name == "vae"
