"""The two ways to write a diffusion model's bound, by posteriors and by pairs of neighbours: value, variance and budget of each.

`python benchmarks/two_bounds.py model_cards/ddpm-mnist --dataset_name ylecun/mnist --draws 2000 --out two-bounds.json`

Each draw is an image, a t uniform on the terms of the bound and its noise; a term counts as often as there are terms, so that the
mean is the bound. "KL of pairs" is what the second way is often written as, with both neighbours drawn and x_t taken for
independent of x_{t+1}: it is no way to write the bound.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from common import environment, shown_settings, write_json

GOAL = 0.01


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("pipeline", help="folder of a diffusion pipeline with a fixed variance, or a repository on the Hub")
    add("--dataset_name", default="ylecun/mnist", help="(default: %(default)s)")
    add("--split", default="test", help="(default: %(default)s)")
    add("--draws", type=int, default=2000, help="of each way (default: %(default)s)")
    add("--batch_size", type=int, default=50, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--device", help="(default: the first of cuda, mps and cpu there is)")
    add("--out", type=Path, help="JSON file of the results")
    return parser.parse_args(argv)


class Ways:
    """The terms of each way at an image, a place in the sum and noise."""

    def __init__(self, model, process, dtype: torch.dtype):
        self.process = process

        def network(x, timesteps):
            return model(x.to(dtype), timesteps)

        self.network = network

    def posteriors(self, x_0, places, noise):
        """L_0, ..., L_{T-1}, and last L_T."""
        last = self.process.num_steps
        terms = self.process.terms(self.network, x_0.double(), noise[0], places.clamp(max=last - 1))
        return torch.where(places == last, self.process.forward.prior_kl(x_0), terms)

    def pairs(self, x_0, places, noise):
        """-log p(x_0 | x_1), x_1 .. x_{T-1} against their neighbours, and last x_T."""
        from hfgen.likelihood.pairs import last_pair, pair_terms

        last = self.process.num_steps
        terms = pair_terms(self.network, self.process, x_0, noise, places.clamp(max=last - 1))
        return torch.where(places == last, last_pair(self.process, x_0, noise[0]), terms)

    def kl_of_pairs(self, x_0, places, noise):
        """As pairs, with the KL in place of the terms between."""
        from hfgen.likelihood.pairs import independent_pair_terms

        last = self.process.num_steps
        terms = independent_pair_terms(self.network, self.process, x_0, noise, places.clamp(1, last - 1))
        outer = (places == last) | (places == 0)
        return torch.where(outer, self.pairs(x_0, places, noise), terms)


@torch.no_grad()
def measure(way: Callable, images, terms: int, args) -> dict:
    """Mean and standard deviation of a draw, in bits/dim, and the draws that a standard error of 0.01 takes."""
    from hfgen.core.media import to_model_range

    generator = torch.Generator().manual_seed(args.seed)
    values = []
    rows = torch.randint(len(images), (args.draws,), generator=generator).split(args.batch_size)
    for pixels in images.batches(rows):
        x_0 = to_model_range(pixels)
        places = torch.randint(terms, (len(x_0),), generator=generator).to(x_0.device)
        noise = torch.randn(2, *x_0.shape, generator=generator).to(x_0.device)
        values.append(terms * way(x_0, places, noise) / (x_0[0].numel() * math.log(2)))
    values = torch.cat(values).double().cpu()
    deviation = values.std().item()
    return {
        "bits_per_dim": values.mean().item(),
        "standard_error": deviation / math.sqrt(len(values)),
        "variance": deviation**2,
        "draws_for_0.01": math.ceil((deviation / GOAL) ** 2),
    }


def main():
    args = parse_args()
    import hfgen
    from hfgen.data.evaluation_images import load_evaluation_images
    from hfgen.schedulers import reverse_process

    model = hfgen.load(args.pipeline, device=args.device)
    process = reverse_process(model.pipeline.scheduler).to(model.module.device)
    data = load_evaluation_images(args.dataset_name, args.split, shape=model.image_shape, device=model.module.device)
    ways = Ways(model.module.eval(), process, model.module.dtype)
    named = {"posteriors": ways.posteriors, "pairs": ways.pairs, "KL of pairs": ways.kl_of_pairs}
    print(f"{'':<12} {'bits/dim':>9} {'error':>8} {'variance':>10} {'draws for 0.01 bits/dim':>24}")
    results = {}
    for name, way in named.items():
        found = results[name] = measure(way, data.images, process.num_steps + 1, args)
        print(
            f"{name:<12} {found['bits_per_dim']:>9.3f} {found['standard_error']:>8.3f} {found['variance']:>10.3g} "
            f"{found['draws_for_0.01']:>24,}",
            flush=True,
        )
    if args.out is not None:
        write_json(args.out, {**environment(), "settings": shown_settings(args), "ways": results})


if __name__ == "__main__":
    main()
