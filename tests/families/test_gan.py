"""GANs through everything that other kinds go through, and what two networks ask of it."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

import hfgen
from hfgen.cli.main import main
from hfgen.cli.parser import parse_training_config
from hfgen.configs.evaluation import FeatureTrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.data.batch import Batch
from hfgen.evaluation import synthetic
from hfgen.families.base import make_options
from hfgen.families.gan.flags import GANSampling
from hfgen.families.gan.networks import GANModule
from hfgen.families.gan.sampler import GANSampler
from hfgen.families.gan.task import GANTask
from hfgen.families.registry import get_family
from hfgen.models.gan_presets import build_gan
from hfgen.objectives.adversarial import Hinge, NonSaturating
from hfgen.pipelines import GANPipeline
from hfgen.trainer.train import train

CONFIG = {
    "latent_size": 4,
    "block_out_channels": [8, 8],
    "discriminator": {"block_out_channels": [8, 8], "features": 8},
}
WEIGHTS = "generator/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trains on 64 real digits for 8 steps over 2 epochs."""
    root = tmp_path_factory.mktemp("gans")
    (root / "gan.json").write_text(json.dumps(CONFIG))
    flags = {
        "dataset_name": "digits",
        "validation_split": "test",
        "max_train_samples": 64,
        "model_config_name_or_path": root / "gan.json",
        "train_batch_size": 16,
        "eval_batch_size": 99,
        "num_epochs": 2,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 0,
        "checkpointing_steps": 4,
        "logging_steps": 2,
        "save_images_epochs": 0,
        "r1_interval": 3,
        "logger": "none",
    }

    def start(name, **changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        words = [f"--{key}={value}" for key, value in {**flags, "output_dir": root / name, **changes}.items()]
        return train(parse_training_config("gan", words))

    return start


@pytest.fixture(scope="module")
def trained(run):
    return run("whole", class_conditional=True)


def networks(classes=None, **discriminator):
    torch.manual_seed(0)
    config = {**CONFIG, "discriminator": {**CONFIG["discriminator"], **discriminator}}
    return GANModule(*build_gan(config, 8, 1, classes))


def game(objective=None, **changes):
    values = {"latent_size": 4, "r1_gamma": 2.0, "r1_interval": 4, "seed": 0, "class_names": ()}
    return GANTask(objective=objective or NonSaturating(), **{**values, **changes})


def batch(step=0, count=3, **cond):
    random = {"noise": torch.randn(count, 4, generator=torch.Generator().manual_seed(0))}
    data = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(data=data, cond=cond, random=random, rows=torch.arange(count), step=step)


def test_it_trains_resumes_bit_for_bit_and_saves_the_generator_alone(run, trained):
    resumed = run("resumed", class_conditional=True, resume_from_checkpoint=trained / "checkpoint-4")
    one, other = (load_file(folder / WEIGHTS) for folder in (trained, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    averaged, last = (load_file(trained / "checkpoint-8" / f"{name}.safetensors") for name in ("ema", "model"))
    assert all(torch.equal(one[name], averaged[f"generator.{name}"]) for name in one)
    assert not torch.equal(averaged["generator.dense.weight"], last["generator.dense.weight"])
    assert not any("discriminator" in path.name for path in trained.rglob("*") if "checkpoint" not in str(path))
    rows = [row for row in read_history(trained / "history.jsonl") if "train_loss" in row]
    for row in rows:
        parts = sum(row[f"train_{name}"] for name in ("discriminator", "generator", "r1"))
        assert row["train_loss"] == pytest.approx(parts, rel=1e-4)


def test_it_is_described_drawn_and_has_no_likelihood(trained, capsys):
    for name in ("samples.png", "walks.png", "loss.png"):
        assert (trained / name).is_file()
    card = (trained / "README.md").read_text()
    assert "The generator of a GAN (Goodfellow et al. 2014) of 8x8 grey images" in card
    assert "It has no likelihood" in card
    assert main(["evaluate", str(trained), "--dataset_name", "digits"]) == 1
    assert "a GAN has no likelihood" in capsys.readouterr().err
    samples = hfgen.sample(trained, num_images=4, class_labels=("3", "7"))
    assert samples.how == "one step, classes 3, 7"
    quality = hfgen.evaluate(trained, dataset_name="digits", samples=12)
    assert quality.likelihood is None
    assert "recall" in quality.metrics


def test_images_for_two_measures_are_drawn_once(trained, monkeypatch):
    drawn = []
    draw = GANSampler.draw

    def counted(self, generators, first, on_step=None):
        drawn.extend(range(first, first + len(generators)))
        return draw(self, generators, first, on_step)

    monkeypatch.setattr(GANSampler, "draw", counted)
    monkeypatch.setattr(synthetic, "TRAINING", FeatureTrainingConfig(steps=2, batch_size=8))
    both = hfgen.evaluate(trained, dataset_name="digits", samples=12, classifier_accuracy=30)
    assert drawn == list(range(30))
    alone = (
        hfgen.evaluate(trained, dataset_name="digits", samples=12),
        hfgen.evaluate(trained, dataset_name="digits", classifier_accuracy=30),
    )
    assert both.samples.metrics == alone[0].samples.metrics
    assert both.synthetic.metrics == alone[1].synthetic.metrics


def test_hinge_spectral_norm_and_no_penalty_train(run):
    out = run("hinge", num_epochs=1, loss_type="hinge", spectral_norm=True, r1_gamma=0, mixed_precision="bf16")
    weights = load_file(out / "checkpoint-4" / "model.safetensors")
    assert "discriminator.dense.parametrizations.weight.original" in weights
    assert not hfgen.load(out).pipeline.class_names


def test_layers_of_a_spectral_discriminator_stretch_nothing_by_more_than_one():
    module = networks(spectral=True, classes=3)
    for _ in range(30):  # an iteration of the power method in each call
        module.discriminator(torch.randn(2, 1, 8, 8), torch.tensor([0, 2]))
    layers = [layer for layer in module.discriminator.modules() if hasattr(layer, "parametrizations")]
    assert len(layers) == 5
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("objective", [NonSaturating(), Hinge()])
def test_each_turn_trains_its_own_network(objective):
    module, task = networks(), game(objective)
    task.loss(module, batch(), "discriminator")["loss"].mean().backward()
    assert all(p.grad is None for p in module.generator.parameters())
    assert all(p.grad is not None for p in module.discriminator.parameters())
    task.loss(module, batch(), "generator")["loss"].mean().backward()
    assert all(p.grad is not None for p in module.generator.parameters())
    assert [len(task.parameters(module, name)) for name in task.optimizers] == [
        len(list(getattr(module, name).parameters())) for name in ("discriminator", "generator")
    ]


def test_the_penalty_comes_in_one_of_some_steps_so_many_times():
    """Against numerical differences of the discriminator's logits."""
    module, task = networks().double(), game()
    data = batch(0)
    data = Batch(**{**vars(data), "data": data.data.double(), "random": {"noise": data.random["noise"].double()}})
    terms = task.loss(module, data, "discriminator")
    torch.testing.assert_close(terms["loss"], terms["discriminator"] + terms["r1"])
    with torch.no_grad():
        steps = 1e-6 * torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
        slopes = [
            (module.discriminator(image + steps) - module.discriminator(image - steps)) / 2e-6 for image in data.data
        ]
    expected = 4 * 2.0 / 2 * torch.stack(slopes).square().sum(1)
    torch.testing.assert_close(terms["r1"].detach(), expected, rtol=1e-3, atol=1e-6)
    later = task.loss(module, Batch(**{**vars(data), "step": 3}), "discriminator")
    assert "r1" not in later


def test_both_networks_hear_the_classes():
    module, task = networks(classes=2), game(class_names=("a", "b"))
    losses = [
        task.loss(module, batch(class_labels=torch.full((3,), label)), turn)["loss"]
        for turn in task.optimizers
        for label in (0, 1)
    ]
    assert not torch.allclose(losses[0], losses[1])
    assert not torch.allclose(losses[2], losses[3])


def test_an_image_is_a_function_of_its_generator_and_class_alone():
    model = GANPipeline(networks(classes=2).generator, ["a", "b"])
    seeds = [[torch.Generator().manual_seed(seed) for seed in part] for part in ((1, 2, 3), (5, 3, 2))]
    many = model(3, seeds[0], [0, 1, 1], output_type="pt").images
    other = model(3, seeds[1], ["a", "b", "b"], output_type="pt").images
    torch.testing.assert_close(many[1:], other[[2, 1]], rtol=0, atol=1e-5)
    assert model.class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"class_labels": [2]}, "class label 2"),
        ({"class_labels": ["c"]}, "class label 'c'"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for batch_size=1"),
        ({"latents": torch.zeros(2, 3)}, r"latents of shape \(2, 3\)"),
        ({"latents": torch.zeros(2, 4), "class_labels": [1]}, "1 class_labels for 2 latents"),
        ({"output_type": "jpg"}, "output_type='jpg'"),
    ],
)
def test_bad_calls_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        GANPipeline(networks(classes=2).generator)(**arguments)


@pytest.mark.parametrize(
    ("asked", "wanted"), [(0, [0, 0]), ("b", [1, 1]), ((1, 0), [1, 0]), (torch.tensor([1]), [1, 1])]
)
def test_classes_are_asked_for_by_number_or_name_alone_or_in_turn(asked, wanted):
    model = GANPipeline(networks(classes=2).generator, ["a", "b"])
    sampler = GANSampler(model, make_options(GANSampling, {"class_labels": asked}, whose="this model"))
    assert sampler.labels(2).tolist() == wanted
    assert sampler.how.startswith("one step, classes ")


def test_what_a_gan_cannot_do_is_one_line(run):
    family, plain = get_family("gan"), GANPipeline(networks().generator)
    with pytest.raises(HfgenError, match="compile: a GAN draws"):
        family.sampler(plain, GANSampling(), compile=True)
    with pytest.raises(HfgenError, match="told no classes"):
        family.sampler(plain, GANSampling(class_labels=("3",)))
    for changes, words in (
        ({"block_out_channels": [8, 8, 8, 8, 8]}, "cannot be halved 4 times"),
        ({"block_out_channels": []}, "block_out_channels=.*whole numbers"),
        ({"latent_size": 0}, "latent_size=0"),
        ({"depth": 3}, "has depth: GANGenerator takes no such argument"),
        ({"discriminator": 3}, "discriminator=3 is no object"),
        ({"discriminator": {"features": "x"}}, "features='x'"),
        ({"block_out_channels": [10**6, 10**6]}, "GiB of memory"),
    ):
        with pytest.raises(HfgenError, match=words):
            build_gan({**CONFIG, **changes}, 8, 1)
    with pytest.raises(
        HfgenError, match=r"resolution=7 cannot be halved 1 times, as this generator does.*--resolution 8"
    ):
        build_gan(CONFIG, 7, 1)
