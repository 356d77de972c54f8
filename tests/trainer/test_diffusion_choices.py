"""Each choice of prediction, schedule, weighting, times, variance and classes, from the flags to a pipeline that samples."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from safetensors.torch import load_file

from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.data.evaluation_images import load_evaluation_images
from hfgen.families.base import LikelihoodSettings
from hfgen.families.ddpm.flags import DiffusionLikelihood
from hfgen.hub.loading import load
from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline
from hfgen.schedulers import PosteriorMeanDDPMScheduler

SHORT = {
    "num_epochs": None,
    "max_train_steps": 3,
    "ddpm_num_steps": 30,
    "ddpm_num_inference_steps": 30,
    "lr_scheduler": "constant",
    "checkpointing_steps": 100,
    "logging_steps": 1,
}
LEARNED = {"ddpm_variance_type": "learned_range", "time_sampling": "importance"}


@pytest.fixture
def short(train, monkeypatch):
    """Train for 3 steps, without loss.png; returns the output folder."""
    monkeypatch.setattr("hfgen.trainer.train.save_curves", lambda *_: [])
    return lambda **changes: train(**{**SHORT, **changes})


def losses(folder):
    found = [row["train_loss"] for row in read_history(folder / "history.jsonl") if "train_loss" in row]
    assert found
    assert all(0 < loss < 1e4 for loss in found)
    return found


def samples_and_bound(folder):
    """The pipeline loaded, having drawn finite images and a bound that is finite."""
    model = load(folder)
    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    wanted = [0, 1] if isinstance(pipeline, ClassConditionalDDPMPipeline) else 2
    images = pipeline(
        wanted, generator=torch.Generator().manual_seed(0), num_inference_steps=30, output_type="pt"
    ).images
    assert images.shape == (2, 1, 8, 8)
    assert images.isfinite().all()
    assert images.std() > 0.05
    data = load_evaluation_images("digits", "test", shape=(1, 8, 8), device=torch.device("cpu"), max_images=3)
    bound = model.family.likelihood(pipeline, data, LikelihoodSettings(options=DiffusionLikelihood(exact=True)))
    assert 0 < bound.metrics["vlb_total_bits_per_dim"].mean < 1e4
    return pipeline, bound


def test_posterior_mean(short):
    folder = short(prediction_type="mu")
    losses(folder)
    pipeline, bound = samples_and_bound(folder)
    assert type(pipeline) is UnconditionalDiffusionPipeline
    assert type(pipeline.scheduler) is PosteriorMeanDDPMScheduler
    assert bound.facts["prediction_type"] == "mu"


def test_v_prediction_cosine_min_snr_stratified(short):
    folder = short(
        prediction_type="v_prediction",
        ddpm_beta_schedule="squaredcos_cap_v2",
        loss_weighting="min_snr",
        time_sampling="stratified",
    )
    losses(folder)
    config = samples_and_bound(folder)[0].scheduler.config
    assert (config.prediction_type, config.beta_schedule) == ("v_prediction", "squaredcos_cap_v2")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
def test_learned_variance(short, objective):
    folder = short(**LEARNED, variance_objective=objective)
    losses(folder)
    bound = samples_and_bound(folder)[1]
    assert bound.facts["variance_type"] == "learned_range"
    stock = DDPMPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    assert type(stock.scheduler) is DDPMScheduler
    assert stock.scheduler.variance_type == "learned_range"
    images = stock(2, torch.Generator().manual_seed(0), 30, "pt").images
    ours = UnconditionalDiffusionPipeline(stock.unet, stock.scheduler)
    ours.set_progress_bar_config(disable=True)
    assert torch.equal(ours(2, torch.Generator().manual_seed(0), 30, output_type="pt").images, images)


@pytest.mark.slow
def test_importance_sampling_resumes_as_if_never_interrupted(short, tmp_path):
    # 10 of each of 3 t are seen after some steps of 16 rows: the second half runs on what the first has learnt
    flags = {**LEARNED, "ddpm_num_steps": 30, "max_train_steps": 60, "checkpointing_steps": 40, "logging_steps": 5}
    whole = short(**flags, output_dir=tmp_path / "whole")
    again = short(**flags, output_dir=tmp_path / "again", resume_from_checkpoint=whole / "checkpoint-40")
    weights = [load_file(f / "unet/diffusion_pytorch_model.safetensors") for f in (whole, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    rows = [{row["step"]: row.get("train_loss") for row in read_history(f / "history.jsonl")} for f in (whole, again)]
    assert rows[0][60] == rows[1][60]


@pytest.mark.slow
def test_importance_sampling_does_not_depend_on_how_the_batch_is_shared(short, tmp_path):
    flags = {
        **LEARNED,
        "ddpm_num_steps": 21,
        "ddpm_num_inference_steps": 21,
        "max_train_steps": 60,
        "logging_steps": 60,
    }
    shares = [{"train_batch_size": 16}, {"train_batch_size": 4, "gradient_accumulation_steps": 4}]
    folders = [short(**flags, **share, output_dir=tmp_path / str(i)) for i, share in enumerate(shares)]
    one, other = (load_file(f / "unet/diffusion_pytorch_model.safetensors") for f in folders)
    # rounding alone: drawn from what the micro-batches before have taught, t differs and the weights by 1e-3 and more
    assert max((value - other[name]).abs().max() for name, value in one.items()) < 3e-4


@pytest.mark.slow
def test_class_conditional(short):
    folder = short(class_conditional=True, save_images_epochs=1)
    losses(folder)
    pipeline, _ = samples_and_bound(folder)
    assert type(pipeline) is ClassConditionalDDPMPipeline
    assert pipeline.class_names == [str(i) for i in range(10)]
    assert pipeline.unet.config.num_class_embeds == 11
    assert json.loads((folder / "model_index.json").read_text())["_class_name"][1] == "ClassConditionalDDPMPipeline"
    assert (folder / "samples.png").is_file()


def test_class_conditional_mu_with_a_learned_variance(short):
    folder = short(class_conditional=True, prediction_type="mu", **LEARNED)
    pipeline, _ = samples_and_bound(folder)
    assert type(pipeline) is ClassConditionalDDPMPipeline
    assert type(pipeline.scheduler) is PosteriorMeanDDPMScheduler
    assert pipeline.unet.config.out_channels == 2


@pytest.mark.slow
def test_classes_all_withheld_train_the_embedding_of_none_alone(short):
    """With a dropout near 1 no class is seen, with 0 none is withheld: the embedding that is not used gets no gradient."""
    for dropout, moved in ((0.999999, False), (0.0, True)):
        folder = short(class_conditional=True, class_dropout=dropout, adam_weight_decay=0, overwrite_output_dir=True)
        embedding = load(folder).module.class_embedding.weight
        start = short(
            class_conditional=True,
            class_dropout=dropout,
            adam_weight_decay=0,
            learning_rate=1e-30,
            overwrite_output_dir=True,
        )
        change = (embedding - load(start).module.class_embedding.weight).abs().amax(1)
        assert bool(change[:10].amax() > 0) == moved
        assert bool(change[10] > 0) == (not moved)


def test_classes_need_labels(short, tmp_path):
    from PIL import Image

    for i in range(12):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("L", (8, 8), 20 * i).save(tmp_path / "images" / f"{i}.png")
    with pytest.raises(HfgenError, match="name it with --label_column"):
        short(class_conditional=True, dataset_name=None, train_data_dir=tmp_path / "images", validation_split=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}, "use v_prediction or sample"),
        ({"rescale_betas_zero_snr": True, "prediction_type": "mu"}, "use v_prediction or sample"),
        (
            {"ddpm_beta_schedule": "linear", "ddpm_num_steps": 20, "ddpm_num_inference_steps": 20},
            "use more than 20 steps",
        ),
        ({"ddpm_num_inference_steps": 31}, "more than ddpm_num_steps=30"),
    ],
)
def test_choices_that_do_not_go_together(short, tmp_path, flags, message):
    with pytest.raises(HfgenError, match=message):
        short(**flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_zero_terminal_snr(short):
    folder = short(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", loss_weighting="truncated_snr", ddpm_num_steps=40
    )
    losses(folder)
    pipeline = load(folder).pipeline
    assert pipeline.scheduler.alphas_cumprod[-1] < 1e-6
    samples_and_bound(folder)
