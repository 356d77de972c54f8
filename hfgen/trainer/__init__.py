"""The one training loop on Accelerate, its configuration, checkpoints and pictures."""
