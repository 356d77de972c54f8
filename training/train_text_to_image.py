"""Train a text-to-image model on images with captions: `accelerate launch training/train_text_to_image.py --help`."""

import sys

from hfgen.cli.training_script import run_script

if __name__ == "__main__":
    sys.exit(run_script("text_to_image"))
