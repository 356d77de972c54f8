"""`hfgen evaluate`: what it writes, that it goes on where it was broken off, and what it refuses."""

import hashlib
import json
import math
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from drawing import draw, model_of, sampler_of
from flat import flat
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from hfgen.cli.main import main
from hfgen.configs.evaluation import EvaluationConfig
from hfgen.core.errors import HfgenError
from hfgen.core.resume import Resumable
from hfgen.data.choice import choose_images
from hfgen.data.digits import embedded_digits
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.evaluate import evaluate_model
from hfgen.evaluation.networks import load_feature_network
from hfgen.evaluation.samples import Draws, evaluate_samples, real_images
from hfgen.hub.loading import load
from hfgen.models import MLPVAE
from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline, VAEPipeline
from hfgen.results import EvaluationResult, LikelihoodResult, Metric

STEPS, COUNT = 6, 12
PICTURES = [f"results_{name}.png" for name in ("neighbours", "real", "samples")]
LIKELIHOOD = ["--likelihood", "--evaluations", "200", "--max_images", "9"]


def unet(side=8):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=side,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4, 4),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
    )


def scheduler(**config):
    return DDPMScheduler(STEPS, 0.01, 0.5, **config)


def vae(likelihood="discretized_logistic"):
    torch.manual_seed(0)
    return MLPVAE(1, 8, 2, (8,), likelihood=likelihood)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Names of folders: "diffusion", "vae", "grey_vae" and "features", a classifier with 6 features."""
    root = tmp_path_factory.mktemp("saved")
    UnconditionalDiffusionPipeline(unet(), scheduler()).save_pretrained(root / "diffusion")
    VAEPipeline(vae()).save_pretrained(root / "vae")
    VAEPipeline(vae("bernoulli_grey")).save_pretrained(root / "grey_vae")
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1]}
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(num_channels=1, layer_type="basic", **sizes)).save_pretrained(
        root / "features"
    )
    (root / "features/preprocessor_config.json").write_text('{"size": {"height": 8, "width": 8}}')
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture(scope="module")
def digits():
    return embedded_digits()


@pytest.fixture(autouse=True)
def _digits_made_once(monkeypatch, digits):
    monkeypatch.setattr("hfgen.data.sources.embedded_digits", lambda: digits)


@pytest.fixture
def samples(saved):
    return ["--samples", str(COUNT), "--features", saved["features"]]


@pytest.fixture
def evaluate(tmp_path):
    """Run the command on the digits; returns the results, or with `status` nothing."""

    def run(pipeline, *arguments, status=0, out="results.json"):
        target = tmp_path / out
        given = ["--dataset_name", "digits", "--device", "cpu", "--out", str(target), *arguments]
        assert main(["evaluate", str(pipeline), *given]) == status
        return flat(EvaluationResult.load(target)) if status == 0 else None

    return run


class Calls:
    """Counts the images that UNets and encoders are given; after `limit` of them the user loses patience."""

    def __init__(self, monkeypatch):
        self.images, self.limit = 0, None
        for cls, name in ((UNet2DModel, "forward"), (MLPVAE, "encode")):
            monkeypatch.setattr(cls, name, self._counting(getattr(cls, name)))

    def _counting(self, function):
        def counted(model, x, *arguments, **kwargs):
            if self.limit is not None and self.images + len(x) > self.limit:
                raise KeyboardInterrupt
            self.images += len(x)
            return function(model, x, *arguments, **kwargs)

        return counted

    def start(self, limit=None):
        self.images, self.limit = 0, limit


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


def timeless(results):
    """Without the values that are times."""
    if isinstance(results, dict):
        return {k: timeless(v) for k, v in results.items() if not k.startswith("seconds")}
    return results


def grid_of(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_likelihood_alone(evaluate, saved, tmp_path, capsys):
    results = evaluate(saved["diffusion"], *LIKELIHOOD)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("diffusion, ")
    assert lines[0].endswith(" parameters, 9 images of digits/test")
    assert "200 network evaluations, sampled t" in lines[1]
    assert lines[2].split()[-1] == "bits/dim"
    assert "variational bound (upper bound on the NLL)" in lines[2]
    assert lines[-2:] == [str(tmp_path / "results.json"), str(tmp_path / "results_terms.png")]
    assert "200/200" in err
    assert "samples" not in results
    assert not [key for key in results["metrics"] if "frechet" in key]
    assert names_in(tmp_path) == ["results.json", "results_terms.png"]


def test_samples_alone(evaluate, saved, samples, tmp_path, capsys):
    results = evaluate(saved["diffusion"], *samples)
    text = capsys.readouterr().out
    assert "12 samples (ddpm, 6 steps, " in text
    assert "against 12 images, features of the features" in text
    assert "NLL" not in text
    assert not [key for key in results["metrics"] if "vlb" in key]
    for key in ("frechet", "precision", "recall", "class_shift", "confidence"):
        assert {key, f"{key}_floor"} <= set(results["metrics"])
    assert results["kind"] == "diffusion"
    assert results["samples"]["count"] == results["samples"]["reference"] == results["images"] == COUNT
    assert sum(results["samples"]["classes"]["samples"]) == pytest.approx(1)
    assert names_in(tmp_path) == ["results.json", *PICTURES]


@pytest.mark.slow
def test_both_are_the_two_together(evaluate, saved, samples, tmp_path):
    both = evaluate(saved["diffusion"], *LIKELIHOOD, *samples)
    assert names_in(tmp_path) == ["results.json", *PICTURES, "results_terms.png"]
    likelihood = evaluate(saved["diffusion"], *LIKELIHOOD, out="a.json")
    quality = evaluate(saved["diffusion"], *samples, out="b.json")
    assert both["metrics"] == likelihood["metrics"] | quality["metrics"]
    assert timeless(both["samples"]) == timeless(quality["samples"])
    assert timeless({k: v for k, v in both.items() if k != "samples"}) == timeless(
        likelihood | {"metrics": both["metrics"]}
    )


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["likelihood", "samples"])
@pytest.mark.parametrize("model", ["diffusion", "vae"])
def test_results_say_what_they_were_made_with(evaluate, saved, samples, model, flags):
    of_vae = ["--likelihood", "--iw_samples", "3", "--max_images", "9"]
    chosen = {"likelihood": LIKELIHOOD if model == "diffusion" else of_vae, "samples": samples}[flags]
    results = evaluate(saved[model], *chosen, "--seed", "5")
    assert (results["seed"], results["dataset"], results["split"]) == (5, "digits", "test")
    assert len(results["dataset_fingerprint"]) == 16
    assert {"hfgen", "torch", "diffusers", "python", "device"} <= set(results["run_metadata"])
    times = results if flags == "likelihood" else results["samples"]
    keys = ["seconds"] if flags == "likelihood" else ["seconds_sampling", "seconds_measuring"]
    assert all(times[key] > 0 for key in keys)
    pipeline = load(saved[model]).pipeline
    network = pipeline.vae if model == "vae" else pipeline.unet
    assert results["parameters"] == sum(p.numel() for p in network.parameters())


def test_every_t_for_every_image(evaluate, saved, calls):
    results = evaluate(saved["diffusion"], "--exact", "--max_images", "4")
    assert (results["exact"], results["evaluations"], calls.images) == (True, 4 * STEPS, 4 * STEPS)
    assert results["terms"]["draws"] == (4,) * STEPS


def test_nothing_is_written_without_out(saved, samples, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--dataset_name", "digits", "--device", "cpu", *LIKELIHOOD, *samples]
    assert main(["evaluate", saved["diffusion"], *arguments]) == 0
    assert "variational bound" in capsys.readouterr().out
    assert names_in(tmp_path) == []


def test_samples_are_those_of_the_sample_command(evaluate, saved, samples, tmp_path):
    for model, flags in (
        ("diffusion", ["--scheduler", "ddim", "--steps", "3", "--eta", "0.5"]),
        ("vae", ["--sample_pixels"]),
    ):
        evaluate(saved[model], *samples, *flags, "--seed", "3", out=f"{model}.json")
        grid = tmp_path / f"{model}.png"
        arguments = ["--num_images", str(COUNT), "--seed", "3", "--out", str(grid), "--device", "cpu"]
        assert main(["sample", saved[model], *arguments, *flags]) == 0
        assert np.array_equal(grid_of(tmp_path / f"{model}_samples.png"), grid_of(grid))


@pytest.mark.slow
def test_the_sampler_does_not_change_the_bound(evaluate, saved, samples):
    alone = evaluate(saved["diffusion"], *LIKELIHOOD)["metrics"]
    both = evaluate(saved["diffusion"], *LIKELIHOOD, *samples, "--scheduler", "dpmsolver++", "--steps", "3")
    assert {key: both["metrics"][key] for key in alone} == alone
    assert both["samples"]["how"] == "dpmsolver++, 3 steps"


def test_without_a_scheduler_it_is_that_of_the_sample_command(evaluate, saved, samples):
    assert evaluate(saved["diffusion"], *samples)["samples"]["how"] == "ddpm, 6 steps"


def test_a_vae_without_steps(evaluate, saved, samples, capsys):
    results = evaluate(saved["vae"], "--likelihood", "--iw_samples", "5", "--max_images", "7", *samples)
    text = capsys.readouterr().out
    assert "12 samples (means of p(x|z), " in text
    assert "negative_iw_bound_bits_per_dim" in results["metrics"]
    assert "frechet" in results["metrics"]
    assert results["iw_samples"] == 5


def test_a_pseudo_likelihood_is_never_called_an_nll(evaluate, saved, samples, tmp_path, capsys):
    evaluate(saved["grey_vae"], "--likelihood", "--iw_samples", "3", "--max_images", "5", *samples)
    text = capsys.readouterr().out + (tmp_path / "results.json").read_text()
    assert "not an NLL" in text
    assert "NLL" not in text.replace("not an NLL", "")
    assert "bits/dim" not in text


def test_the_shipped_classifier_takes_small_images(evaluate, saved):
    results = evaluate(saved["vae"], "--samples", "70")
    assert results["samples"]["features"] == "digit classifier"
    assert results["samples"]["classes"]["names"] == [str(digit) for digit in range(10)]
    assert "Frechet distance of digit classifier features (not FID)" in results["metrics"]["frechet"]["name"]
    # digits of another data set are nearer to digits than a random VAE's grey
    assert results["metrics"]["frechet_floor"]["mean"] < results["metrics"]["frechet"]["mean"]


@pytest.mark.slow
class TestBrokenOff:
    """The parts that are saved: rounds of 10 evaluations, images of the exact bound, and 5 samples at a time."""

    @pytest.fixture(autouse=True)
    def _often(self, monkeypatch):
        # a figure takes longer than the rest
        monkeypatch.setattr(
            "hfgen.results.EvaluationResult.plot",
            lambda result, path: path.write_bytes(b"\x89PNG\r\n\x1a\n") and None,
        )
        monkeypatch.setattr("hfgen.evaluation.samples.CHUNK", 5)
        for module in ("exact", "elbo"):
            monkeypatch.setattr(f"hfgen.likelihood.{module}.SAVE_SECONDS", -1)

    def interrupted(self, evaluate, calls, limit, tmp_path, *arguments):
        calls.start(limit)
        evaluate(*arguments, status=130)
        assert names_in(tmp_path) == [".results.json.unfinished"]
        calls.start()

    @pytest.mark.parametrize("after", [3, 87, 204, 237])
    def test_a_diffusion_model(self, evaluate, saved, samples, calls, after, tmp_path):
        """200 evaluations, then 5 + 5 + 2 samples of 6 steps."""
        arguments = (saved["diffusion"], *LIKELIHOOD, *samples)
        expected = evaluate(*arguments)
        grid = grid_of(tmp_path / "results_samples.png")
        assert calls.images == 200 + COUNT * STEPS
        for path in tmp_path.iterdir():
            path.unlink()
        self.interrupted(evaluate, calls, after, tmp_path, *arguments)
        found = evaluate(*arguments)
        done = after // 10 * 10 if after < 200 else 200 + (after - 200) // 30 * 30
        assert calls.images == 200 + COUNT * STEPS - done
        assert timeless(found) == timeless(expected)
        assert np.array_equal(grid_of(tmp_path / "results_samples.png"), grid)
        assert names_in(tmp_path) == ["results.json", *PICTURES, "results_terms.png"]

    @pytest.mark.parametrize("after", [29, 54, 60])
    def test_every_t_and_samples(self, evaluate, saved, samples, calls, after, tmp_path):
        """9 images of 6 steps, one at a time, then samples: the bound may be done when the samples are broken off."""
        arguments = (saved["diffusion"], "--likelihood", "--exact", "--max_images", "9", "--batch_size", "6", *samples)
        expected = evaluate(*arguments)
        for path in tmp_path.iterdir():
            path.unlink()
        self.interrupted(evaluate, calls, after, tmp_path, *arguments)
        found = evaluate(*arguments)
        assert calls.images == 54 + COUNT * STEPS - min(54, after // 6 * 6)
        assert timeless(found) == timeless(expected)

    @pytest.mark.parametrize("after", [2, 6, 9])
    def test_a_vae(self, evaluate, saved, calls, after, tmp_path):
        arguments = (saved["vae"], "--iw_samples", "4", "--max_images", "9", "--batch_size", "2")
        expected = evaluate(*arguments)
        for path in tmp_path.iterdir():
            path.unlink()
        if after < 9:
            self.interrupted(evaluate, calls, after, tmp_path, *arguments)
        found = evaluate(*arguments)
        assert timeless(found) == timeless(expected)
        if after < 9:
            assert calls.images == 9 - after

    def test_a_vae_whose_samples_are_broken_off(self, evaluate, saved, samples, calls, tmp_path, monkeypatch):
        arguments = (saved["vae"], "--likelihood", "--iw_samples", "4", "--max_images", "9", *samples)
        expected = evaluate(*arguments)
        for path in tmp_path.iterdir():
            path.unlink()

        def impatient(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("hfgen.families.vae.sampler.VAESampler.draw", impatient)
            evaluate(*arguments, status=130)
        calls.start()
        assert timeless(evaluate(*arguments)) == timeless(expected)
        assert calls.images == 0

    @pytest.mark.parametrize("changed", [["--seed", "1"], ["--split", "train"], ["--evaluations", "220"]])
    def test_other_flags_start_anew(self, evaluate, saved, calls, changed, tmp_path):
        expected = evaluate(saved["diffusion"], *LIKELIHOOD, *changed, out="expected.json")
        whole = calls.images
        (tmp_path / "expected.json").unlink()
        (tmp_path / "expected_terms.png").unlink()
        self.interrupted(evaluate, calls, 150, tmp_path, saved["diffusion"], *LIKELIHOOD)
        found = evaluate(saved["diffusion"], *LIKELIHOOD, *changed)
        assert calls.images == whole
        assert timeless(found) == timeless(expected)

    def test_other_models_start_anew(self, evaluate, saved, calls, tmp_path):
        """Other weights, or the same ones with another variance of p(x_{t-1} | x_t)."""
        others = tmp_path / "others"
        changed = unet()
        with torch.no_grad():
            changed.conv_out.bias.add_(0.1)
        UnconditionalDiffusionPipeline(changed, scheduler()).save_pretrained(others / "weights")
        large = scheduler(variance_type="fixed_large")
        UnconditionalDiffusionPipeline(unet(), large).save_pretrained(others / "variance")
        for other in (others / "weights", others / "variance"):
            calls.start(150)
            evaluate(saved["diffusion"], *LIKELIHOOD, status=130)
            calls.start()
            found = evaluate(other, *LIKELIHOOD)
            assert calls.images == 200
            assert found["metrics"] == evaluate(other, *LIKELIHOOD, out="expected.json")["metrics"]

    def test_another_batch_size_and_device_name_go_on(self, evaluate, saved, calls, tmp_path):
        expected = evaluate(saved["diffusion"], *LIKELIHOOD, out="expected.json")
        calls.start(150)
        evaluate(saved["diffusion"], *LIKELIHOOD, status=130)
        calls.start()
        found = evaluate(saved["diffusion"], *LIKELIHOOD, "--batch_size", "3", "--device", "cpu:0")
        assert calls.images == 50
        total = found["metrics"]["vlb_total"]["mean"]
        assert total == pytest.approx(expected["metrics"]["vlb_total"]["mean"], rel=1e-5)

    def test_results_that_cannot_be_written_are_not_lost(self, evaluate, saved, calls, monkeypatch, tmp_path, capsys):
        """The disk is full at the very end."""
        calls.start()
        write = Path.write_text

        def full(path, *arguments, **kwargs):
            if path.name.startswith(".results.json."):
                raise OSError(28, "No space left on device")
            return write(path, *arguments, **kwargs)

        monkeypatch.setattr(Path, "write_text", full)
        evaluate(saved["diffusion"], *LIKELIHOOD, status=1)
        assert "results.json cannot be written (No space left on device)" in capsys.readouterr().err
        assert names_in(tmp_path) == [".results.json.unfinished"]
        monkeypatch.setattr(Path, "write_text", write)
        calls.start()
        evaluate(saved["diffusion"], *LIKELIHOOD)
        assert calls.images == 0

    @pytest.mark.parametrize("damage", ["cut short", "garbage", "another shape", "a folder", "settings"])
    @pytest.mark.parametrize("after", [150, 237])
    def test_a_part_that_is_damaged_is_measured_anew(
        self, evaluate, saved, samples, calls, after, damage, tmp_path, capsys
    ):
        """The rounds of the bound, or the first samples."""
        arguments = (saved["diffusion"], *LIKELIHOOD, *samples)
        expected = evaluate(*arguments)
        for path in tmp_path.iterdir():
            path.unlink()
        self.interrupted(evaluate, calls, after, tmp_path, *arguments)
        work = tmp_path / ".results.json.unfinished"
        part = work / ("sampled.safetensors" if after < 200 else "samples-0000000.safetensors")
        if damage == "cut short":
            part.write_bytes(part.read_bytes()[:-30])
        elif damage == "garbage":
            part.write_bytes(b"garbage")
        elif damage == "another shape":
            save_file({name: torch.zeros(1, 1) for name in load_file(part)}, part)
        elif damage == "a folder":
            part.unlink()
            part.mkdir()
        else:
            part = work / "settings.json"
            part.write_bytes(b"{\xff")
        capsys.readouterr()
        assert timeless(evaluate(*arguments)) == timeless(expected)
        assert f"hfgen: {part} is damaged: " in capsys.readouterr().err
        assert names_in(tmp_path) == ["results.json", *PICTURES, "results_terms.png"]

    @pytest.mark.parametrize("changed", ["test", "train"])
    @pytest.mark.parametrize("flags", ["likelihood", "samples"])
    def test_other_images_start_anew(
        self, evaluate, saved, samples, calls, flags, changed, tmp_path, monkeypatch, digits
    ):
        """Of the same names: the dataset's own fingerprint does not see that the files were changed."""
        files = {split: [tmp_path / f"data/{split}{i}.png" for i in range(20)] for split in ("train", "test")}
        (tmp_path / "data").mkdir()
        for split, paths in files.items():
            for i, path in enumerate(paths):
                digits[split][i]["image"].save(path)
        splits = {split: Dataset.from_dict({"image": list(map(str, paths))}) for split, paths in files.items()}
        data = DatasetDict({split: dataset.cast_column("image", ImageFeature()) for split, dataset in splits.items()})
        monkeypatch.setattr("hfgen.data.sources.embedded_digits", lambda: data)
        arguments = (saved["diffusion"], *(LIKELIHOOD if flags == "likelihood" else samples))
        after, whole = (150, 200) if flags == "likelihood" else (37, COUNT * STEPS)
        calls.start(after)
        evaluate(*arguments, status=130)
        first = data["test"]._fingerprint
        for path in files[changed]:
            Image.eval(Image.open(path), lambda value: 255 - value).save(path)
        calls.start()
        found = evaluate(*arguments)
        assert calls.images == (50 if (flags, changed) == ("likelihood", "train") else whole)
        assert data["test"]._fingerprint == first
        assert found["metrics"] == evaluate(*arguments, out="expected.json")["metrics"]


def draws_of(pipeline, count=COUNT, seed=0, batch_size=64, resumable=None, **options):
    return Draws(
        sampler=sampler_of(pipeline, **options),
        device=torch.device("cpu"),
        count=count,
        seed=seed,
        batch_size=batch_size,
        resumable=resumable or Resumable(None),
    )


def test_an_image_does_not_depend_on_the_parts(saved, monkeypatch):
    """But for the rounding of products of another size: a level of 256."""
    for model in ("diffusion", "vae"):
        pipeline = load(saved[model]).pipeline
        whole, seconds = draws_of(pipeline, seed=2).images()
        assert (whole.dtype, whole.shape, seconds > 0) == (torch.uint8, (COUNT, 1, 8, 8), True)
        assert torch.equal(whole, draw(pipeline, COUNT, seed=2).images)
        monkeypatch.setattr("hfgen.evaluation.samples.CHUNK", 5)
        parts, _ = draws_of(pipeline, seed=2, batch_size=2).images()
        assert (parts.int() - whole.int()).abs().max() <= 1
        monkeypatch.undo()


def test_kept_parts_are_not_drawn_again_and_their_time_counts(saved, tmp_path, calls):
    pipeline = load(saved["diffusion"]).pipeline

    def draws():
        return draws_of(pipeline, resumable=Resumable(tmp_path / "work", {}))

    first, seconds = draws().images()
    calls.start()
    again, kept = draws().images()
    assert calls.images == 0
    assert torch.equal(first, again)
    assert kept == pytest.approx(seconds, rel=1e-6)


def test_samples_are_held_against_as_many_real_images(saved):
    """`real_images` draws by seed, without replacement; `evaluate_samples` measures against them and them alone."""
    pipeline, config, shape = load(saved["vae"]).pipeline, EvaluationConfig(dataset_name="digits"), (1, 8, 8)
    draws = draws_of(pipeline, 40, seed=1)
    network = load_feature_network(saved["features"])
    real, again = (real_images(draws, network, shape, config) for _ in range(2))
    assert len(real.reference) == len(real.floor) == 40
    assert torch.equal(real.reference.features, again.reference.features)
    assert not torch.equal(real.reference.features, real.floor.features)
    assert len(real.reference.features.unique(dim=0)) == 40
    every = real_images(draws_of(pipeline, 400), network, shape, config)
    assert (len(every.reference), len(every.floor)) == (297, 400)
    result, pictures = evaluate_samples(draws, network, real)
    assert pictures.samples.shape == pictures.nearest.shape == pictures.real.shape == (40, 1, 8, 8)
    assert (result.count, result.reference, pictures.labels) == (40, 40, None)
    assert result.training_images == 1500
    _, pictures = evaluate_samples(draws_of(pipeline, 100), network, real)
    assert len(pictures.samples) == 64


@pytest.fixture
def refused(capsys, tmp_path, saved, calls):
    """Check that the command ends with one line, without a call of the network and without a trace on disk."""

    def run(model, message, *arguments, out="results.json", dataset="digits"):
        before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
        calls.start()
        given = ["--dataset_name", dataset, "--device", "cpu", "--out", str(tmp_path / out), *arguments]
        try:
            status = main(["evaluate", saved.get(model, str(model)), *given])
        except SystemExit as end:
            status = end.code
        error = capsys.readouterr().err
        told = [line for line in error.splitlines() if line.startswith("hfgen: error: ")]
        assert status in (1, 2)
        assert len(told) == 1
        assert message in told[0]
        assert error.rstrip().endswith(told[0])
        assert calls.images == 0
        assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before
        return status

    return run


def test_flags_that_do_not_go_together(refused, samples):
    for flags in (["--steps", "3"], ["--scheduler", "ddim"], ["--eta", "0"]):
        told = f"{flags[0]}: vae (VAE) has no such choice: leave it out"
        assert refused("vae", told, *samples, "--likelihood", *flags) == 1
    assert refused("vae", "compile: a VAE draws an image in one step", *samples, "--compile") == 1
    assert refused("vae", "--exact: vae (VAE) has no such choice", "--exact") == 1
    alone = (
        ["--steps", "3"],
        ["--scheduler", "ddim"],
        ["--eta", "1"],
        ["--features", "x"],
        ["--compile"],
    )
    for flags in alone:
        assert refused("diffusion", f"{flags[0]}: only with --samples", *flags) == 1
    assert refused("vae", "--sample_pixels: only with --samples", "--sample_pixels") == 1
    assert refused("diffusion", "--sample_pixels: diffusion (diffusion) has no such choice", "--sample_pixels") == 1


def test_flags_of_what_is_not_measured(refused, samples, tmp_path):
    refused(
        "vae", "max_images=9: of the likelihood's images, and no likelihood is asked for", *samples, "--max_images", "9"
    )
    refused("vae", "train_split='train': only with --samples", "--likelihood", "--train_split", "train")
    folder = str(tmp_path)
    refused("vae", "name two sources: pass one of them", "--likelihood", "--train_data_dir", folder)


def test_values_out_of_range(refused, samples):
    for flag, value in (
        ("--max_images", "0"),
        ("--samples", "1"),
        ("--evaluations", "99"),
        ("--seed", "-1"),
        ("--scheduler", "plms"),
        ("--iw_samples", "0"),
        ("--batch_size", "0"),
    ):
        assert refused("diffusion", flag, flag, value) == 2
    assert refused("diffusion", "use 1..6", *LIKELIHOOD, *samples, "--steps", "7") == 1
    assert refused("diffusion", "has no eta", *samples, "--scheduler", "unipc", "--eta", "0.5") == 1


def test_samples_that_are_too_few_are_told_before_the_likelihood(refused, saved):
    few = ["--samples", "3", "--features", saved["features"]]
    refused("diffusion", "--samples 3: too few for 3 neighbours, of precision and recall; use more than 3", *few)
    refused("diffusion", "--samples 3: too few for 3 neighbours", *LIKELIHOOD, *few)


def test_samples_that_are_too_few_for_a_covariance_have_the_other_metrics(evaluate, saved, capsys):
    results = evaluate(saved["diffusion"], "--samples", "6", "--features", saved["features"])
    told = "hfgen: 6 images are too few for the Frechet distance of 6 features, whose covariance would be singular"
    assert told in capsys.readouterr().err
    assert not [key for key in results["metrics"] if key.startswith("frechet")]
    assert {"kid", "kid_floor", "precision", "recall", "nearest_training"} <= set(results["metrics"])
    assert results["samples"]["num_features"] == 6


def test_splits_that_are_not_there(refused, samples):
    refused("diffusion", "split 'tset' is not in 'digits': it has train, test", "--split", "tset")
    refused("diffusion", "'tset' is not in 'digits'", *samples, "--split", "tset")
    refused("diffusion", "'trian' is not in 'digits'", *LIKELIHOOD, *samples, "--train_split", "trian")
    refused("vae", "'trian' is not in 'digits'", "--likelihood", *samples, "--train_split", "trian")


def test_images_that_are_too_few(refused, samples, digits, monkeypatch):
    few, empty = (digits["test"].select(range(count)) for count in (3, 0))
    splits = DatasetDict(train=digits["train"], few=few, empty=empty)
    monkeypatch.setattr("hfgen.data.sources.embedded_digits", lambda: splits)
    refused("diffusion", "split 'empty' of 'digits' has no images", "--split", "empty")
    refused("diffusion", "split 'empty' of 'digits' has no images", *samples, "--split", "empty")
    message = "3 images of split 'few' of 'digits': too few for 3 neighbours"
    refused("diffusion", message, *LIKELIHOOD, *samples, "--split", "few")
    refused("diffusion", message, *samples, "--split", "train", "--train_split", "few")


@pytest.mark.slow
def test_a_local_dataset_is_named_without_its_path(evaluate, saved, samples, digits, tmp_path):
    digits.save_to_disk(tmp_path / "my_data")
    for flags in (LIKELIHOOD, samples):
        results = evaluate(saved["diffusion"], *flags, "--dataset_name", str(tmp_path / "my_data"))
        assert results["dataset"] == "my_data"
        assert str(tmp_path) not in json.dumps(results)


def test_images_of_another_size(refused, samples, tmp_path):
    UnconditionalDiffusionPipeline(unet(16), scheduler()).save_pretrained(tmp_path / "large")
    message = "the images are 1x8x8 (channels x height x width), the model's 1x16x16"
    refused(tmp_path / "large", message)
    refused(tmp_path / "large", message, *samples)


def test_models_that_cannot_be_measured(refused, saved, tmp_path):
    flow = tmp_path / "flow"
    UnconditionalDiffusionPipeline(unet(), FlowMatchEulerDiscreteScheduler()).save_pretrained(flow)
    refused(flow, "FlowMatchEulerDiscreteScheduler does not run a DDPM's process (a flow between noise and data)")
    latent = tmp_path / "latent"
    UnconditionalDiffusionPipeline(unet(), scheduler()).save_pretrained(latent)
    index = json.loads((latent / "model_index.json").read_text())
    index |= {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}
    (latent / "model_index.json").write_text(json.dumps(index))
    refused(latent, "vqvae")
    refused(tmp_path / "nowhere", "does not exist")
    refused("diffusion", "cannot be loaded", "--samples", "12", "--features", str(tmp_path / "nowhere"))
    refused("diffusion", "device 'toaster'", "--device", "toaster")


def test_colours_and_a_grey_feature_network(refused, samples, tmp_path):
    torch.manual_seed(0)
    VAEPipeline(MLPVAE(3, 8, 2, (8,), likelihood="discretized_logistic")).save_pretrained(tmp_path / "colour")
    images = [Image.fromarray(np.full((8, 8, 3), i * 5, np.uint8)) for i in range(20)]
    data = Dataset.from_dict({"image": images}, features=Features({"image": ImageFeature()}))
    DatasetDict(train=data, test=data).save_to_disk(tmp_path / "colours")
    refused(
        tmp_path / "colour",
        "images of 3 channels: features takes 1; name other --features",
        "--likelihood",
        *samples,
        dataset=str(tmp_path / "colours"),
    )


def test_places_that_cannot_be_written_to(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    assert refused("diffusion", "is a folder: name a file", out="folder") == 1
    assert refused("diffusion", "is no folder", out="file/results.json") == 1


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the diffusion model's folder, with what a training leaves there."""
    shutil.copytree(saved["diffusion"], tmp_path / "model")
    for name in ("README.md", "training.json", "history.jsonl", "pipeline_x.py"):
        (tmp_path / "model" / name).write_text("{}")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "out",
    [
        "model_index.json",
        "README.md",
        "training.json",
        "history.jsonl",
        "pipeline_x.py",
        "unet/config.json",
        "unet/results.json",
        "scheduler/scheduler_config.json",
        "../model/unet/new.json",
    ],
)
def test_parts_of_a_pipeline_are_never_replaced(refused, folder, out):
    for flags in ([], ["--overwrite"]):
        refused("diffusion", f"is a part of the pipeline in {folder}: name another", *flags, out=f"model/{out}")
        refused("diffusion", "is a part of the pipeline", *flags, out=f"model/unet/../{out}")


def test_results_go_into_the_folder_of_a_pipeline_and_replace_earlier_ones(evaluate, saved, folder):
    (folder / "training.json").unlink()
    for seed in ("0", "1"):
        results = evaluate(folder, *LIKELIHOOD, "--seed", seed, out="model/results.json")
        assert results["seed"] == int(seed)


def test_results_of_another_model_are_replaced_with_their_pictures_and_a_line(
    evaluate, saved, samples, tmp_path, capsys
):
    evaluate(saved["diffusion"], *samples)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == PICTURES
    capsys.readouterr()
    results = evaluate(saved["vae"], "--likelihood", "--max_images", "9")
    assert "results.json held results of other weights or configs, which are replaced" in capsys.readouterr().err
    assert results["family"] == "vae"
    assert "frechet" not in results["metrics"]
    assert not list(tmp_path.glob("*.png"))
    evaluate(saved["vae"], *samples)
    assert "replaced" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"{}", b"[]", b"mine", b"\xff", b"", b'{"a": 1}'])
def test_a_file_that_holds_no_results_is_replaced_only_if_asked(refused, evaluate, saved, tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    refused("diffusion", "results.json holds no results of hfgen: name another, or pass --overwrite to replace it")
    evaluate(saved["diffusion"], *LIKELIHOOD, "--overwrite")
    evaluate(saved["diffusion"], *LIKELIHOOD)


@pytest.mark.parametrize("name", ["results_terms.png", "results_samples.png"])
def test_a_file_beside_the_results_that_is_no_picture(refused, evaluate, saved, tmp_path, name):
    (tmp_path / name).write_text("mine")
    refused("diffusion", f"{name} holds no PNG of hfgen")
    evaluate(saved["diffusion"], *LIKELIHOOD, "--overwrite")


def test_what_is_no_plain_file_is_never_replaced(refused, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for flags in ([], ["--overwrite"]):
        assert main(["evaluate", "nowhere/x", "--out", "/dev/null", *flags]) == 1
        assert main(["evaluate", "nowhere/x", "--out", str(tmp_path / "fifo"), *flags]) == 1
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)


@pytest.mark.parametrize(
    ("kind", "value"), [("diffusion", math.nan), ("diffusion", math.inf), ("diffusion", 1e30), ("vae", math.nan)]
)
@pytest.mark.parametrize("what", [{"likelihood": True}, {"samples": COUNT}])
def test_what_is_not_finite_is_no_result(saved, tmp_path, kind, value, what):
    """Predictions of 1e30 are clipped by the sampler, which then draws images of 0 and 1; their bound overflows."""
    pipeline = UnconditionalDiffusionPipeline(unet(), scheduler()) if kind == "diffusion" else VAEPipeline(vae())
    model = model_of(pipeline)
    with torch.no_grad():
        list(model.module.parameters())[-1].fill_(value)
    options = {"evaluations": 200} if kind == "diffusion" else {"iw_samples": 3}
    config = EvaluationConfig(
        dataset_name="digits",
        max_images=9 if "likelihood" in what else None,
        features=saved["features"] if "samples" in what else None,
        options=options if "likelihood" in what else {},
        **what,
    )
    if "samples" in what and not math.isnan(value):
        assert evaluate_model(model, config).samples.count == COUNT
        return
    with pytest.raises(HfgenError, match=r"has no result \(.*(nan|inf)|came out as nan or inf") as told:
        evaluate_model(model, config, tmp_path / "results.json")
    assert "\n" not in str(told.value)
    assert names_in(tmp_path) == []


def test_guidance_out_of_all_proportion(refused, samples):
    assert refused("diffusion", "guidance_scale", *samples, "--guidance_scale", "1e300") == 2


def test_features_that_are_not_finite_are_none(saved):
    network = load_feature_network(saved["features"])
    with torch.no_grad():
        network.model.classifier[-1].weight.fill_(float("nan"))
    with pytest.raises(HfgenError, match="gives features that are nan or inf: its weights are damaged"):
        network(ImagesInMemory(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)))


def test_a_table_aligns_what_it_shows():
    metrics = {
        "a": Metric(name="short", mean=1.0, standard_error=0.5, unit="bits/dim"),
        "b": Metric(name="a longer name", mean=1.0),
        "c": Metric(name="of one image", mean=1.0, standard_error=float("nan"), unit="bits/dim"),
    }
    result = EvaluationResult(
        family="vae",
        kind="VAE",
        parameters=1234,
        dataset="digits",
        dataset_fingerprint="0",
        split="test",
        images=3,
        seed=0,
        run_metadata={},
        likelihood=LikelihoodResult(quantity="log-likelihood", likelihood="x", metrics=metrics, seconds=2.0),
    )
    assert result.table().splitlines() == [
        "VAE, 1,234 parameters, 3 images of digits/test",
        "log-likelihood (x), 2 s",
        "short              1.0000  +- 0.5000  bits/dim",
        "a longer name      1.0000",
        "of one image       1.0000  bits/dim",
    ]


def test_samplers_refuse_what_a_pipeline_cannot_do(saved):
    diffusion, autoencoder = (load(saved[name]).pipeline for name in ("diffusion", "vae"))
    with pytest.raises(HfgenError, match=r"use 1\.\.6"):
        sampler_of(diffusion, steps=7)
    with pytest.raises(HfgenError, match="unknown scheduler 'plms'"):
        sampler_of(diffusion, scheduler="plms")
    with pytest.raises(HfgenError, match="has no such choice"):
        sampler_of(autoencoder, steps=7)


def test_settings_are_what_is_asked_for_and_the_model():
    """Not how many images go at once; settings are written as JSON."""
    from hfgen.evaluation.evaluate import prepare

    def settings(likelihood="discretized_logistic", **changes):
        config = EvaluationConfig(dataset_name="digits", **changes)
        return prepare(model_of(VAEPipeline(vae(likelihood))), config).settings()

    first = settings(batch_size=3)
    assert first == settings(batch_size=1)
    assert json.loads(json.dumps(first)) == first
    assert len(first["weights"]) == hashlib.sha256().digest_size * 2
    assert settings("categorical") != first
    assert settings(seed=1) != first
    assert settings(options={"iw_samples": 3}) != first


def test_a_second_measurement_keeps_the_first_ones_part(evaluate, saved, samples, folder, capsys):
    """And the card tells both, with the figures that belong to them."""
    (folder / "training.json").unlink()
    (folder / "README.md").unlink()
    target = folder / "results.json"
    evaluate(folder, *LIKELIHOOD, "--seed", "1", out="model/results.json")
    capsys.readouterr()
    evaluate(folder, *samples, "--seed", "2", out="model/results.json")
    assert "variational bound" not in capsys.readouterr().out  # what was not measured now is not printed
    both = EvaluationResult.load(target)
    assert {"vlb_total", "frechet"} <= set(both.metrics)
    assert (both.measured_on(both.likelihood).seed, both.measured_on(both.samples).seed) == (1, 2)
    assert (both.measured_on(both.likelihood).images, both.measured_on(both.samples).images) == (9, COUNT)
    assert main(["card", str(folder)]) == 0
    card = (folder / "README.md").read_text()
    assert "Likelihood: 9 images of digits (split test), seed 1. Samples: 12 " in card
    assert all(f"](results_{name}.png)" in card for name in ("terms", "real", "neighbours", "samples"))


def test_results_of_other_weights_are_replaced(evaluate, saved, samples, folder):
    (folder / "training.json").unlink()
    evaluate(folder, *LIKELIHOOD, out="model/results.json")
    changed = unet()
    with torch.no_grad():
        changed.conv_out.bias.add_(0.1)
    changed.save_pretrained(folder / "unet")
    results = evaluate(folder, *samples, out="model/results.json")
    assert "frechet" in results["metrics"]
    assert not [key for key in results["metrics"] if key.startswith("vlb")]


def test_samples_of_classes_have_their_names_beside_them(tmp_path, evaluate, samples):
    torch.manual_seed(0)
    network = UNet2DModel(**{**unet().config, "num_class_embeds": 3})
    ClassConditionalDDPMPipeline(network, scheduler(), ["cat", "dog"]).save_pretrained(tmp_path / "classes")
    evaluate(tmp_path / "classes", *samples)
    grid = grid_of(tmp_path / "results_samples.png")
    # two rows of six images and a margin, which is white but for the words
    assert grid.shape[0] == 2 * (56 + 2 * 2)
    assert grid.shape[1] > 6 * 58 + 10
    assert (grid[0, 0], grid[:, : grid.shape[1] - 6 * 58 - 4].min()) == (255, 0)


def test_images_are_known_by_their_classes_too(tmp_path):
    """What was drawn for captions or classes of before is not taken for work of the same images."""
    pixels = np.arange(8 * 64, dtype=np.uint8).reshape(8, 8, 8)
    rows = {"image": [Image.fromarray(each) for each in pixels], "a": ["x", "y"] * 4, "b": ["y", "x"] * 4}
    DatasetDict(train=Dataset.from_dict(rows).cast_column("image", ImageFeature())).save_to_disk(tmp_path / "rows")
    digests = []
    for name in ("a", "b", "a"):
        config = EvaluationConfig(dataset_name=str(tmp_path / "rows"), split="train", label_column=name)
        digests.append(choose_images(config, {}).held_out.load((1, 8, 8), torch.device("cpu")).digest)
    assert digests[0] == digests[2] != digests[1]
