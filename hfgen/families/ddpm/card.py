"""What the card of a diffusion model tells."""

from __future__ import annotations

from typing import Any

from hfgen.core.markdown import escape_markdown
from hfgen.families.base import Card
from hfgen.families.bound_metrics import WITHHELD_NOTE
from hfgen.families.words import image_words, parameter_words
from hfgen.pipelines.saving import is_stock, scheduler_to_save
from hfgen.results import EvaluationResult
from hfgen.schedulers.own import draws_itself

PREDICTED = {"v_prediction": "v", "sample": "x_0"}
SCHEDULES = {"squaredcos_cap_v2": "cosine schedule", "sigmoid": "sigmoid schedule"}
CODE_NOTE = """Code lies in the repository, as diffusers has none for it; `trust_remote_code=True` runs it. Read it first: it is one file. A
`revision="..."` (a commit) beside it pins what you have read.

"""
CODE = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}"{trust})
images = pipeline({first}, num_inference_steps={T}).images
images[0].save("sample.png")
```
"""
FEW_STEPS = """
With 20 network evaluations:

```python
from diffusers import DPMSolverMultistepScheduler

pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
    pipeline.scheduler.config,
    timestep_spacing="linspace",
    algorithm_type="sde-dpmsolver++",
    solver_type="heun",{cosine}
)
images = pipeline({first}, num_inference_steps=20).images
```
"""
STOCK_FORM = """
`pipeline.to_stock().save_pretrained("stock")` leaves a form without code, a `ConsistencyModelPipeline`. It takes classes by number and
draws without guidance alone, in a single step unless it is told how many:

```python
stock = pipeline.to_stock()
images = stock(class_labels=[0, 1] * 8, num_inference_steps={T}).images
```
"""
HFGEN_CODE = """```python
import hfgen

samples = hfgen.sample("{name}", num_images=16{more})
samples.save("samples.png")
```

On the command line:
"""
LEAST_SOLVER_STEPS = 100


def diffusion_card(pipeline: Any, name: str, results: EvaluationResult | None) -> Card:
    """The card of a pipeline with a `unet`, a `scheduler` and perhaps `class_names`."""
    measured = results is not None
    unmeasured = "Its likelihood and the quality of its samples have not been measured; the training loss is neither."
    names = getattr(pipeline, "class_names", None)
    classes = "" if names is None else f", told the class: {', '.join(map(escape_markdown, names))}"
    own = draws_itself(pipeline.scheduler)  # as diffusers' pipelines of a UNet2DModel do not draw with it
    return Card(
        summary=diffusion_summary(pipeline, classes),
        usage=HFGEN_CODE.format(name=name, more="") if own else _usage(pipeline, name),
        samples="Samples, not selected." if own else "Ancestral samples, not selected.",
        results="" if names is None or results is None or results.likelihood is None else WITHHELD_NOTE,
        limits=[] if measured else [unmeasured],
        tags=["ddpm"],
        pictures={"results_terms": "The terms of the bound over t."},
    )


def _usage(pipeline: Any, name: str) -> str:
    names = getattr(pipeline, "class_names", None)
    stock = is_stock(type(scheduler_to_save(pipeline.scheduler)))
    needs_code = not stock or names is not None
    first = "batch_size=16" if names is None else "class_labels=[0, 1] * 8"
    text = CODE_NOTE if needs_code else ""
    trust = ", trust_remote_code=True" if needs_code else ""
    text += CODE.format(name=name, trust=trust, first=first, T=pipeline.scheduler.config.num_train_timesteps)
    if names is not None:
        text += (
            f"\nLabels are numbers or names ({', '.join(map(escape_markdown, names))}); `guidance_scale=2.0` draws what is more typical of the class, "
            "1.0 is no guidance.\n"
        )
    if names is not None and stock:
        text += STOCK_FORM.format(T=pipeline.scheduler.config.num_train_timesteps)
    if stock and _solvers_know(pipeline):
        cosine = pipeline.scheduler.config.get("beta_schedule") == "squaredcos_cap_v2"
        text += FEW_STEPS.format(first=first, cosine="\n    lambda_min_clipped=-5.1," if cosine else "")
    return text + "\nWith hfgen on the command line:\n"


def _solvers_know(pipeline: Any) -> bool:
    """Whether a solver of diffusers samples from it in few steps: stock pipelines hand it learned variances, which it takes for pixels."""
    config = pipeline.scheduler.config
    learned = config.get("variance_type") in ("learned", "learned_range")
    return config.num_train_timesteps >= LEAST_SOLVER_STEPS and (hasattr(pipeline, "class_names") or not learned)


def diffusion_summary(pipeline: Any, classes: str) -> str:
    """The sentence of a card; `classes` says at its end what the network is told of them."""
    unet, scheduler = pipeline.unet.config, pipeline.scheduler.config
    schedule = type(pipeline.scheduler).__name__
    if not draws_itself(pipeline.scheduler):
        schedule = SCHEDULES.get(scheduler.beta_schedule) or escape_markdown(scheduler.beta_schedule)
    if schedule == "linear":
        schedule = f"linear betas from {scheduler.beta_start:g} to {scheduler.beta_end:g}"
    steps = f"T = {scheduler.num_train_timesteps}, " if "num_train_timesteps" in scheduler else ""
    variance = ", learned variance" if scheduler.get("variance_type") == "learned_range" else ""
    predicted = scheduler.get("prediction_type")
    predicted = "" if predicted is None else f", {PREDICTED.get(predicted) or escape_markdown(predicted)} prediction"
    return (
        f"A denoising diffusion model (Ho et al. 2020) of {image_words(unet.in_channels, unet.sample_size)}: "
        f"{parameter_words(pipeline.unet)}, {steps}{schedule}{predicted}{variance}{classes}."
    )
