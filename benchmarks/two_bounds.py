"""The two ways to write a diffusion model's bound, by posteriors and by pairs of neighbours: value, variance and budget of each.

`python benchmarks/two_bounds.py model_cards/ddpm-mnist --dataset_name ylecun/mnist --out two-bounds.json`

A round has every term of the bound once, each of a random image and its noise: its sum is one estimate. What is told of a draw is of
a single term at a uniform t, times their number. "KL of pairs" is what the second way is often written as, with both neighbours drawn
and x_t taken for independent of x_{t+1}: it is no way to write the bound.
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
    add("--rounds", type=int, default=4, help="of each way, at least 2 (default: %(default)s)")
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
    """The bound in bits/dim, and the draws that a standard error of 0.01 takes, at uniform t and with t spread evenly."""
    from hfgen.core.media import to_model_range

    generator = torch.Generator().manual_seed(args.seed)
    places = torch.arange(terms).repeat(args.rounds).split(args.batch_size)
    rows = [torch.randint(len(images), (len(part),), generator=generator) for part in places]
    values = []
    for pixels, part in zip(images.batches(rows), places, strict=True):
        x_0 = to_model_range(pixels)
        noise = torch.randn(2, *x_0.shape, generator=generator).to(x_0.device)
        values.append(way(x_0, part.to(x_0.device), noise) / (x_0[0].numel() * math.log(2)))
    values = torch.cat(values).double().cpu().view(args.rounds, terms)
    mean, of_rounds = values.mean(0).sum().item(), values.var(0).sum().item()
    uniform = terms * values.square().mean(0).sum().item() - mean**2
    return {
        "bits_per_dim": mean,
        "standard_error": math.sqrt(of_rounds / args.rounds),
        "variance_of_a_draw": uniform,
        "draws_for_0.01": math.ceil(uniform / GOAL**2),
        "draws_for_0.01_spread_evenly": math.ceil(terms * of_rounds / GOAL**2),
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
    print(
        f"{'':<12} {'bits/dim':>9} {'error':>8} {'variance of a draw':>19} {'draws for 0.01':>15} {'spread evenly':>14}"
    )
    results = {}
    for name, way in named.items():
        found = results[name] = measure(way, data.images, process.num_steps + 1, args)
        print(
            f"{name:<12} {found['bits_per_dim']:>9.3f} {found['standard_error']:>8.3f} {found['variance_of_a_draw']:>19.3g} "
            f"{found['draws_for_0.01']:>15,} {found['draws_for_0.01_spread_evenly']:>14,}",
            flush=True,
        )
    if args.out is not None:
        write_json(args.out, {**environment(), "settings": shown_settings(args), "ways": results})


if __name__ == "__main__":
    main()
