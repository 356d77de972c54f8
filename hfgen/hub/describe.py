"""What is true of a pipeline and its training, in words for its card."""

from __future__ import annotations

from hfgen.data.digits import DIGITS
from hfgen.pipelines import ClassConditionalDDPMPipeline, VAEPipeline
from hfgen.pipelines.pipeline_hfgen_class_conditional import is_stock, scheduler_to_save

LIKELIHOODS = {
    "bernoulli": "Bernoulli likelihood of dynamically binarised pixels",
    "bernoulli_static": "Bernoulli likelihood of binarised pixels",
    "bernoulli_grey": "Bernoulli cross-entropy of grey pixels (a pseudo-likelihood)",
    "gaussian": "Gaussian density of pixels",
    "discretized_logistic": "discretised logistic likelihood of 8-bit pixels",
    "categorical": "categorical likelihood of 8-bit pixels",
}

PREDICTED = {"v_prediction": "v", "sample": "x_0"}


def describe(pipeline, training: dict | None, results: dict | None) -> dict:
    """The template's values."""
    vae = isinstance(pipeline, VAEPipeline)
    stock = not vae and is_stock(type(scheduler_to_save(pipeline.scheduler)))
    facts = {
        "vae": vae,
        "classes": getattr(pipeline, "class_names", None),
        "needs_code": vae or not stock or isinstance(pipeline, ClassConditionalDDPMPipeline),
        "few_steps": not vae and stock and _solvers_know(pipeline),
        "cosine": not vae and pipeline.scheduler.config.get("beta_schedule") == "squaredcos_cap_v2",
        "T": None if vae else pipeline.scheduler.config.num_train_timesteps,
        "summary": _vae(pipeline.vae) if vae else _diffusion(pipeline),
        "limits": _limits(pipeline, training, results),
        "training": training,
        "results": results,
    }
    if training is not None:
        facts |= {"training_text": _training(training), "hardware_text": _hardware(training)}
    if results is not None:
        metrics = list(map(_metric, results["metrics"].values()))
        errors = any("±" in metric["value"] for metric in metrics)
        facts |= {"results_text": _results(results), "metrics": metrics, "errors": errors}
    return facts


def _solvers_know(pipeline) -> bool:
    """Whether a solver of diffusers samples from it in few steps: stock pipelines hand it learned variances, which it takes for pixels."""
    config = pipeline.scheduler.config
    learned = config.get("variance_type") in ("learned", "learned_range")
    return config.num_train_timesteps >= 100 and (isinstance(pipeline, ClassConditionalDDPMPipeline) or not learned)


def _parameters(model) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def _images(channels: int, size) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}x{width} {'grey' if channels == 1 else 'RGB' if channels == 3 else f'{channels}-channel'} images"


def _vae(vae) -> str:
    config = vae.config
    return (
        f"A variational autoencoder (Kingma & Welling 2014) of {_images(config.in_channels, config.sample_size)}: "
        f"{type(vae).__name__}, {config.latent_size} latents, {_parameters(vae)}, {LIKELIHOODS[config.likelihood]}."
    )


def _diffusion(pipeline) -> str:
    unet, scheduler = pipeline.unet.config, pipeline.scheduler.config
    schedule = {"squaredcos_cap_v2": "cosine schedule", "sigmoid": "sigmoid schedule"}.get(
        scheduler.get("beta_schedule"), scheduler.get("beta_schedule", "unknown schedule")
    )
    if schedule == "linear":
        schedule = f"linear betas from {scheduler.beta_start:g} to {scheduler.beta_end:g}"
    variance = ", learned variance" if scheduler.get("variance_type") == "learned_range" else ""
    names = getattr(pipeline, "class_names", None)
    classes = "" if names is None else f", told the class: {', '.join(names)}"
    return (
        f"A denoising diffusion model (Ho et al. 2020) of {_images(unet.in_channels, unet.sample_size)}: "
        f"{_parameters(pipeline.unet)}, T = {scheduler.num_train_timesteps}, {schedule}, "
        f"{PREDICTED.get(scheduler.prediction_type, scheduler.prediction_type)} prediction{variance}{classes}."
    )


def _training(training: dict) -> str:
    dataset = training["dataset"]
    source = {DIGITS: "scikit-learn's handwritten digits", None: "a local dataset"}.get(dataset, dataset)
    weights = "the moving average of the weights" if training["averaged_weights"] else "the last weights"
    held_out = training["held_out_loss"]
    loss = (
        "" if held_out is None else f" Held-out {training['loss']} at the end: {held_out:.4f} ({training['held_out']})."
    )
    return (
        f"{training['images']:,} images of {source} (split {training['train_split']}), {training['epochs']:g} epochs, "
        f"{training['steps']:,} steps of {training['batch_size']} images; the repository has {weights}.{loss}"
    )


def _hardware(training: dict) -> str:
    made_with = training["environment"]
    processes = f"{training['processes']} processes, " if training["processes"] > 1 else ""
    precision = "" if training["mixed_precision"] == "no" else f", {training['mixed_precision']}"
    return (
        f"{_duration(training['seconds'])} on {processes}{made_with['device']}{precision}; hfgen {made_with['hfgen']}, "
        f"PyTorch {made_with['torch']}, diffusers {made_with['diffusers']}, accelerate {made_with['accelerate']}."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours {minutes % 60} minutes"


def _results(results: dict) -> str:
    told = f"{results['images']:,} images of {results['dataset']} (split {results['split']}), seed {results['seed']}, by `hfgen evaluate`."
    samples = results.get("samples")
    if samples is not None:
        told += f" Samples: {samples['count']:,} ({samples['how']}) against {samples['reference']:,} images."
    return told


def _metric(metric: dict) -> dict:
    digits = 2 if metric["unit"].startswith("nats") else 3
    error = f" ± {metric['standard_error']:.{digits}f}" if metric.get("standard_error") is not None else ""
    name = metric["name"].replace("|", "\\|")
    return {"name": name, "value": f"{metric['mean']:.{digits}f}{error} {metric['unit']}".rstrip()}


def _limits(pipeline, training: dict | None, results: dict | None) -> str:
    said = ["It draws images like those that it was trained on and nothing else."]
    if isinstance(pipeline, VAEPipeline):
        said.append("Means of p(x|z) are smoother than images.")
        if not pipeline.vae.likelihood.discrete:
            said.append(f"Its bound is a {pipeline.vae.likelihood.quantity}: it is no likelihood of the data.")
    elif results is None:
        said.append(
            "Its likelihood and the quality of its samples have not been measured; the training loss is neither."
        )
    if training is not None and training["images"] < 10_000:
        said.append(f"{training['images']:,} training images are few: samples may be near copies of them.")
    return " ".join(said)
