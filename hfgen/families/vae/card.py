"""What the card of a VAE tells."""

from __future__ import annotations

from typing import Any

from hfgen.families.base import Card
from hfgen.families.words import OWN_CODE, image_words, parameter_words

LIKELIHOODS = {
    "bernoulli": "Bernoulli likelihood of dynamically binarised pixels",
    "bernoulli_static": "Bernoulli likelihood of binarised pixels",
    "bernoulli_grey": "Bernoulli cross-entropy of grey pixels (a pseudo-likelihood)",
    "gaussian": "Gaussian density of pixels",
    "discretized_logistic": "discretised logistic likelihood of 8-bit pixels",
    "discretized_logistic_rgb": "discretised logistic likelihood of 8-bit pixels, whose colours go together",
    "categorical": "categorical likelihood of 8-bit pixels",
}
PICTURES = {
    "reconstructions": "Held-out images, each above its reconstruction.",
    "manifold": "The plane of the two latents, at the quantiles of N(0, 1): each image stands for the same share of p(z).",
    "latents": "Means of q(z\\|x) of held-out images; of more than two latents the first two principal components.",
    "interpolations": "Spherical interpolations between held-out images.",
}
USAGE = """
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
images = pipeline(batch_size=16).images
images[0].save("sample.png")
again = pipeline.reconstruct(images).images
walk = pipeline.interpolate(images[0], images[1], steps=10).images
means = pipeline.encode(images).mean
```

With hfgen installed no code of the repository is run: `VAEPipeline.from_pretrained("{name}")` of `hfgen.pipelines`, or on the
command line:
"""


def vae_card(vae: Any, name: str) -> Card:
    """The card of a VAE of `hfgen.models`."""
    config, limits = vae.config, ["Means of p(x|z) are smoother than images."]
    if not vae.likelihood.discrete:
        limits.append(f"Its bound is a {vae.likelihood.quantity}: it is no likelihood of the data.")
    return Card(
        summary=(
            f"A variational autoencoder (Kingma & Welling 2014) of {image_words(config.in_channels, config.sample_size)}: "
            f"{type(vae).__name__}, {config.latent_size} latents, {parameter_words(vae)}, {LIKELIHOODS[config.likelihood]}."
        ),
        usage=OWN_CODE + USAGE.format(name=name),
        samples="Means of p(x|z), z ~ N(0, I), not selected.",
        limits=limits,
        tags=["vae"],
        pictures=PICTURES,
    )
