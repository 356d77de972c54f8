"""How often stock diffusers draws what it is asked for: `pipeline(prompt)` as it is, looked at by the classifier of digits.

`python benchmarks/words.py model_cards/sd-mnist --template "a handwritten {}" --out model_cards/sd-mnist-words.json`

The pipeline is that of `DiffusionPipeline.from_pretrained`, with its own scheduler, steps and guidance. Image i is asked for the
digit i mod 10 in words, and its noise is of the seed i.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import environment, shown_settings, write_json
from diffusers import DiffusionPipeline

from hfgen.core.media import image_grid, save_png, unit_to_uint8
from hfgen.data.captions import CaptionRule
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.networks import load_feature_network

SHOWN = 100


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or repository of a StableDiffusionPipeline of digits")
    parser.add_argument("--template", default="a handwritten {}", help="of a prompt (default: %(default)s)")
    parser.add_argument("--count", type=int, default=1000, help="images to draw (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=50, help="images at once (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; a grid of the first hundred goes beside it")
    return parser.parse_args(argv)


def draw(pipeline, prompts: list[str], batch_size: int) -> torch.Tensor:
    """An image of each prompt, uint8 (N, C, H, W), by the pipeline's own choices."""
    parts = []
    for first in range(0, len(prompts), batch_size):
        part = prompts[first : first + batch_size]
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(part))]
        parts.append(unit_to_uint8(pipeline(part, generator=generators, output_type="pt").images).cpu())
    return torch.cat(parts)


def shares(found: torch.Tensor, asked: torch.Tensor, names: list[str]) -> dict:
    """The share of images that were taken for what they were asked to be, with its standard error, and by class."""
    right = (found == asked).double()
    mean = right.mean().item()
    return {
        "right": mean,
        "standard_error": (mean * (1 - mean) / len(right)) ** 0.5,
        "by_class": {name: right[asked == i].mean().item() for i, name in enumerate(names) if (asked == i).any()},
    }


def main(argv=None):
    args = parse_args(argv)
    pipeline = DiffusionPipeline.from_pretrained(args.model).to(args.device)
    pipeline.set_progress_bar_config(disable=True)
    network = load_feature_network(None, args.device)
    words = CaptionRule(column=None, template=args.template).of_classes(network.class_names)
    asked = torch.arange(args.count) % len(words)
    start = time.perf_counter()
    images = draw(pipeline, [words[i] for i in asked.tolist()], args.batch_size)
    seconds = time.perf_counter() - start
    found = network(ImagesInMemory(images)).probabilities.argmax(1)
    result = {
        "settings": shown_settings(args),
        "environment": environment(),
        **shares(found, asked, words),
        "seconds_per_image": seconds / args.count,
    }
    write_json(args.out, result)
    save_png(image_grid(images[:SHOWN], columns=10), args.out.with_suffix(".png"))
    print(f"{result['right']:.3f} ± {result['standard_error']:.3f} of {args.count} are what was asked for: {args.out}")


if __name__ == "__main__":
    main()
