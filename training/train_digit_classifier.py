"""Train the classifier of digits whose features hfgen measures sample quality with.

`python training/train_digit_classifier.py --dataset_name ylecun/mnist --output_dir hfgen/evaluation/digit_classifier`

It writes a `transformers` image classifier. Trained on the split "train" alone, without a look at the split "test", whose
accuracy is printed in the end.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import ResNetConfig, ResNetForImageClassification

from hfgen.core.device import pick_device
from hfgen.core.files import write_json
from hfgen.core.random import epoch_order
from hfgen.data.evaluation_images import load_evaluation_images
from hfgen.evaluation.features import FeatureNetwork

SIDE = 28
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 2 * SIDE, "width": 2 * SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5],
    "image_std": [0.5],
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_name", default="ylecun/mnist", help="(default: %(default)s)")
    add("--output_dir", type=Path, required=True)
    add("--epochs", type=int, default=12, help="(default: %(default)s)")
    add("--batch_size", type=int, default=128, help="(default: %(default)s)")
    add("--learning_rate", type=float, default=5e-3, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--device", help="(default: the first of cuda, mps and cpu there is)")
    return parser.parse_args(argv)


def make_classifier() -> ResNetForImageClassification:
    config = ResNetConfig(
        num_channels=1,
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[2, 2, 1],
        layer_type="basic",
        num_labels=10,
        id2label={i: str(i) for i in range(10)},
        label2id={str(i): i for i in range(10)},
    )
    return ResNetForImageClassification(config)


def deformed(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image turned by up to 12 degrees, scaled and sheared by up to a tenth, and shifted by up to 2.5 pixels."""
    angle, scale_x, scale_y, shear, x, y = torch.rand(6, len(images), generator=generator) * 2 - 1
    angle, shift = angle * math.radians(12), 2.5 / (SIDE / 2)
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack(
        [cos * (1 + scale_x / 10), -sin + shear / 10, x * shift, sin, cos * (1 + scale_y / 10), y * shift], dim=1
    )
    grid = F.affine_grid(rows.view(-1, 2, 3), images.shape, align_corners=False).to(images.device)
    return F.grid_sample(images, grid, align_corners=False)


def train(network: FeatureNetwork, data, args):
    """One pass of a rising and falling learning rate; AdamW."""
    model, labels = network.model.train(), data.labels.to(network.device)
    steps = len(data.images) // args.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.epochs * steps)
    generator = torch.Generator().manual_seed(args.seed)
    with tqdm(total=args.epochs * steps) as bar:
        for epoch in range(args.epochs):
            order = epoch_order(args.seed, epoch, len(data.images))[: steps * args.batch_size]
            rows = order.split(args.batch_size)
            for batch, pixels in zip(rows, data.images.batches(rows), strict=True):
                images = network.prepare(deformed(pixels.float(), generator))
                loss = F.cross_entropy(model(images).logits, labels[batch.to(labels.device)], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()


def main(argv=None):
    args = parse_args(argv)
    device = pick_device(args.device)
    torch.manual_seed(args.seed)
    train_data, test_data = (
        load_evaluation_images(args.dataset_name, split, shape=(1, SIDE, SIDE), device=device)
        for split in ("train", "test")
    )
    network = FeatureNetwork(make_classifier().to(device), PREPROCESSOR)
    train(network, train_data, args)
    network.model.save_pretrained(args.output_dir)
    write_json(args.output_dir / "preprocessor_config.json", PREPROCESSOR)
    predicted = network(test_data.images).probabilities.argmax(1)
    parameters = sum(p.numel() for p in network.model.parameters())
    print(
        f"{parameters:,} parameters, accuracy on the split test: {(predicted == test_data.labels).float().mean():.4f}"
    )


if __name__ == "__main__":
    main()
