"""What the card of a hierarchical VAE tells."""

from __future__ import annotations

from typing import Any

from hfgen.families.base import Card
from hfgen.families.vae.card import LIKELIHOODS
from hfgen.families.words import OWN_CODE, image_words, parameter_words

PICTURES = {
    "reconstructions": "Held-out images, each above its reconstruction from z_1.",
    "layers": "What each layer holds. Held-out images; below them reconstructions from z_1, then for each further layer three "
    "draws that keep it and draw the layers below anew.",
    "latents": "Means of the last layer for held-out images; of more than two latents the first two principal components.",
    "interpolations": "Spherical interpolations between held-out images, three in each layer, z_1 first.",
}
USAGE = """
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
images = pipeline(batch_size=16).images
images[0].save("sample.png")
top = pipeline.num_layers
variations = pipeline.reconstruct(images, layer=top).images  # the last layer kept, the others drawn anew
walk = pipeline.interpolate(images[0], images[1], steps=10, layer=top).images
means = pipeline.encode(images, layer=top).mean
```

With hfgen installed no code of the repository is run: `MHVAEPipeline.from_pretrained("{name}")` of `hfgen.pipelines`, or on the
command line:
"""


def mhvae_card(vae: Any, name: str) -> Card:
    """The card of a hierarchical VAE of `hfgen.models`."""
    config, limits = vae.config, ["Means of p(x|z_1) are smoother than images."]
    if not vae.likelihood.discrete:
        limits.append(f"Its bound is a {vae.likelihood.quantity}: it is no likelihood of the data.")
    sizes = ", ".join(map(str, vae.latent_sizes))
    layers = (
        f"{len(vae.latent_sizes)} layers of {sizes} latents"
        if len(vae.latent_sizes) > 1
        else f"a layer of {sizes} latents"
    )
    return Card(
        summary=(
            "A hierarchical variational autoencoder, a Markov chain of latents (Burda et al. 2016), of "
            f"{image_words(config.in_channels, config.sample_size)}: {type(vae).__name__}, {layers}, {parameter_words(vae)}, "
            f"{LIKELIHOODS[config.likelihood]}."
        ),
        usage=OWN_CODE + USAGE.format(name=name),
        samples="Means of p(x|z_1), z_T ~ N(0, I) and the chain down from it, not selected.",
        limits=limits,
        tags=["vae", "hierarchical-vae"],
        pictures=PICTURES,
    )
