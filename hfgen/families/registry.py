"""The kinds of model by name. A family's file is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from hfgen.core.errors import HfgenError
from hfgen.families.base import Family

# of two that claim the same repository the first has it
FAMILIES: dict[str, str] = {
    "vae": "hfgen.families.vae:VAE",
    "mhvae": "hfgen.families.mhvae:MHVAE",
    "class_conditional_ddpm": "hfgen.families.class_conditional_ddpm:ClassConditionalDDPM",
    "vdm": "hfgen.families.vdm:VDM",
    "flow": "hfgen.families.flow:Flow",
    "gan": "hfgen.families.gan:GAN",
    "autoencoder": "hfgen.families.autoencoder:Autoencoder",
    "latent_ddpm": "hfgen.families.latent:LatentDDPM",
    "dit": "hfgen.families.latent.dit:DiT",
    "latent_vdm": "hfgen.families.latent.vdm:LatentVDM",
    "ddpm": "hfgen.families.ddpm:DDPM",
    "stock_vdm": "hfgen.families.vdm.stock:StockVDM",
    "labelled_ddpm": "hfgen.families.labelled_ddpm:LabelledDDPM",
    "text_to_image": "hfgen.families.text_to_image:TextToImage",
    "controlnet": "hfgen.families.controlnet:ControlNet",
    "video": "hfgen.families.video:Video",
    "stock": "hfgen.families.stock:Stock",
}


@cache
def _made(place: str) -> Family:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)()


def get_family(name: str) -> Family:
    """The family of a name; `HfgenError` for one that there is not."""
    if name not in FAMILIES:
        raise HfgenError(f"family {name!r}: choose one of {', '.join(FAMILIES)}")
    return _made(FAMILIES[name])


def families() -> Iterator[Family]:
    """All of them, in the order of the registry."""
    return map(get_family, list(FAMILIES))


def family_of(index: Mapping[str, Any], name: str) -> Family:
    """The family that a `model_index.json` belongs to; `name` is the repository's, for the message.

    Raises `HfgenError` when none claims it.
    """
    for family in families():
        if family.claims(index):
            return family
    given = index.get("_class_name")
    if isinstance(given, list):
        raise HfgenError(
            f"{name} brings code of its own, which hfgen does not run: read it, then load it with "
            "DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
        )
    parts = sorted(k for k, v in index.items() if isinstance(v, list) and v[-1:] != [None])
    raise HfgenError(
        f"{name} is a {given} of {', '.join(parts) or 'no components'}: hfgen samples its own pipelines, and those that "
        "diffusers has the class of"
    )
