"""Train a DDPM on images: `accelerate launch training/train_ddpm.py --help`."""

from hfgen.cli.parser import parse_training_config
from hfgen.trainer.setup import run_script


def main() -> None:
    """Train as the command line says."""
    config = parse_training_config("ddpm")
    from hfgen.trainer.train import train  # after the flags are known to be right: it takes seconds to import

    train(config)


if __name__ == "__main__":
    run_script(main)
