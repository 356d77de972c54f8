"""Train a hierarchical VAE on images: `accelerate launch training/train_mhvae.py --help`."""

import sys

from hfgen.cli.training_script import run_script

if __name__ == "__main__":
    sys.exit(run_script("mhvae"))
