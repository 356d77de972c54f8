"""`hfgen train-features`: a small classifier of a dataset's own classes, whose features samples are then measured with."""

from __future__ import annotations

from argparse import Namespace

from hfgen.cli.parser import taken_from
from hfgen.configs.evaluation import FeatureTrainingConfig
from hfgen.configs.training import DataConfig


def add_parser(commands) -> None:
    """Declare the flags."""
    parser = commands.add_parser("train-features", help="a feature network of one's own images", description=__doc__)
    parser.add_flags(FeatureTrainingConfig)
    parser.add_flags(DataConfig)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Train, write the folder, tell how well it knows held-out images. Raises `HfgenError` as `train_features`."""
    config, data = taken_from(args, FeatureTrainingConfig), taken_from(args, DataConfig)
    from hfgen.core.device import pick_device, set_up_processor
    from hfgen.evaluation.train_features import train_features

    set_up_processor(pick_device(None))
    done = train_features(config, data)
    print(
        f"{done.parameters:,} parameters, {done.num_features} features, {len(done.class_names)} classes, {done.images:,} training "
        f"images\naccuracy on {done.held_out:,} held-out images: {done.accuracy:.4f} (the most frequent class: "
        f"{done.most_frequent:.4f})\n{done.folder}\nnext: hfgen evaluate MODEL --samples 1000 --features {done.folder}"
    )
