"""Train a VAE on images: `accelerate launch training/train_vae.py --help`."""

from hfgen.trainer.arguments import parse_vae_config
from hfgen.trainer.setup import run_script


def main():
    config = parse_vae_config()
    from hfgen.trainer.vae import train_vae  # after the flags are known to be right: it takes seconds to import

    train_vae(config)


if __name__ == "__main__":
    run_script(main)
