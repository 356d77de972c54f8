"""What the card of a variational diffusion model tells."""

from __future__ import annotations

from typing import Any

from hfgen.core.markdown import escape_markdown
from hfgen.families.base import Card
from hfgen.families.bound_metrics import WITHHELD_NOTE
from hfgen.families.words import OWN_CODE, image_words, parameter_words
from hfgen.results import EvaluationResult

SCHEDULES = {
    "fixed": "a fixed linear schedule",
    "scalar": "a linear schedule whose ends were learned",
    "network": "a learned monotone schedule",
}
USAGE = """
```python
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
images = pipeline({first}, num_inference_steps=250).images
images[0].save("sample.png")
gamma = pipeline.vdm.schedule(torch.linspace(0, 1, 1001))  # -log SNR over t
```

With hfgen installed no code of the repository is run: `hfgen.load("{name}")`, or on the command line:
"""


def vdm_card(pipeline: Any, name: str, results: EvaluationResult | None) -> Card:
    """The card of a pipeline with a `vdm`."""
    config, names = pipeline.vdm.config, pipeline.class_names
    classes = f", told the class: {', '.join(map(escape_markdown, names))}" if names else ""
    gamma_0, gamma_1 = (end.item() for end in pipeline.vdm.schedule.ends())
    unmeasured = "Its likelihood and the quality of its samples have not been measured; the training loss is neither."
    return Card(
        summary=(
            f"A variational diffusion model (Kingma et al. 2021) of {image_words(config.in_channels, config.sample_size)}: "
            f"{parameter_words(pipeline.vdm)}, {SCHEDULES[config.gamma]} of -log SNR from {gamma_0:.2f} to {gamma_1:.2f}{classes}."
        ),
        usage=OWN_CODE + USAGE.format(name=name, first="class_labels=[0, 1] * 8" if names else "batch_size=16"),
        samples="Ancestral samples, not selected.",
        results="" if not names or results is None or results.likelihood is None else WITHHELD_NOTE,
        limits=[] if results is not None else [unmeasured],
        tags=["vdm"],
        pictures={
            "gamma": "-log SNR and SNR over t, beside the line between the same ends.",
            "losses": "The diffusion term over t, and per unit of log SNR, on held-out images.",
            "results_terms": "The terms of the bound: first the reconstruction, then the diffusion term over hundredths of t.",
        },
    )
