"""Train the motion of a text-to-image model on clips: `accelerate launch training/train_video.py --help`."""

import sys

from hfgen.cli.training_script import run_script

if __name__ == "__main__":
    sys.exit(run_script("video"))
