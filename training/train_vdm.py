"""Train a variational diffusion model on images: `accelerate launch training/train_vdm.py --help`."""

import sys

from hfgen.cli.training_script import run_script

if __name__ == "__main__":
    sys.exit(run_script("vdm"))
