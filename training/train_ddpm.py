"""Train a DDPM on images: `accelerate launch training/train_ddpm.py --help`."""

from hfgen.trainer.arguments import parse_ddpm_config
from hfgen.trainer.setup import run_script


def main():
    config = parse_ddpm_config()
    from hfgen.trainer.ddpm import train_ddpm  # after the flags are known to be right: it takes seconds to import

    train_ddpm(config)


if __name__ == "__main__":
    run_script(main)
