"""Train a GAN on images: `accelerate launch training/train_gan.py --help`."""

import sys

from hfgen.cli.training_script import run_script

if __name__ == "__main__":
    sys.exit(run_script("gan"))
