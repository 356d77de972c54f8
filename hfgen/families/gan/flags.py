"""What can be chosen of a GAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hfgen.configs.flags import NOT_NEGATIVE, POSITIVE, flag


@dataclass(frozen=True, kw_only=True)
class GANFlags:
    """The flags of train_gan.py that are a GAN's own."""

    _argument_group_name = "GAN"

    model_config_name_or_path: str | None = flag(
        None,
        "digits, mnist, rgb-32, or a config JSON of GANGenerator, with that of the GANDiscriminator as its discriminator; none: the "
        "preset of the images' size and channels",
    )
    loss_type: Literal["non_saturating", "hinge"] = flag(
        "non_saturating", "cross-entropies, the generator's not saturating, or margins", card="always"
    )
    r1_gamma: float = flag(
        1.0, "weight of R1, the squared gradient of the discriminator at real images; 0: none", range=NOT_NEGATIVE
    )
    r1_interval: int = flag(16, "optimizer steps of which one has the R1 penalty, so many times", range=POSITIVE)
    spectral_norm: bool = flag(False, "divide the discriminator's weights by their spectral norms")
    class_conditional: bool = flag(False, "tell both networks the classes of label_column")


@dataclass(frozen=True, kw_only=True)
class GANSampling:
    """How a GAN is sampled."""

    class_labels: tuple[str, ...] | None = flag(
        None, "classes of a class-conditional model, by number or name, in turn; none: all"
    )
