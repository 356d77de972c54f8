"""Train a ControlNet on images with captions and pictures to follow: `accelerate launch training/train_controlnet.py --help`."""

import sys

from hfgen.cli.training_script import run_script

if __name__ == "__main__":
    sys.exit(run_script("controlnet"))
