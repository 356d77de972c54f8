"""Flags and YAML files into configurations."""

import re
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import pytest

from hfgen.cli.parser import Parser, parse_into, parse_training_config
from hfgen.configs.flags import POSITIVE as POSITIVE_RANGE
from hfgen.configs.flags import flag
from hfgen.configs.training import DataConfig, OptimizationConfig, TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.families.ddpm.flags import DDPMFlags
from hfgen.families.vae.flags import VAEFlags

# diffusers' unconditional trainer has most of these: its users find their flags here
FLAGS = (
    "dataset_name dataset_config_name train_data_dir cache_dir resolution center_crop random_flip "
    "model_config_name_or_path output_dir overwrite_output_dir train_batch_size eval_batch_size num_epochs "
    "gradient_accumulation_steps learning_rate lr_scheduler lr_warmup_steps adam_beta1 adam_beta2 adam_weight_decay "
    "adam_epsilon use_ema ema_max_decay ema_inv_gamma ema_power mixed_precision ddpm_num_steps "
    "ddpm_num_inference_steps checkpointing_steps checkpoints_total_limit resume_from_checkpoint save_images_epochs "
    "save_model_epochs logger max_train_steps seed image_column label_column train_split validation_split "
    "max_train_samples max_grad_norm config background"
).split()
POSITIVE = (
    "train_batch_size eval_batch_size num_epochs max_train_steps gradient_accumulation_steps checkpointing_steps "
    "checkpoints_total_limit save_model_epochs logging_steps ddpm_num_steps ddpm_num_inference_steps resolution "
    "max_train_samples learning_rate adam_epsilon ema_inv_gamma latent_size gaussian_variance num_latent_samples snr_gamma"
).split()
NOT_NEGATIVE = (
    "lr_warmup_steps max_grad_norm save_images_epochs adam_weight_decay ema_power kl_warmup_steps latent_bound".split()
)
BELOW_ONE = "adam_beta1 adam_beta2 ema_max_decay class_dropout".split()


def parse(*argv):
    return parse_training_config("ddpm", argv)


def parse_vae(argv):
    return parse_training_config("vae", argv)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_defaults():
    config = parse()
    assert config == TrainingConfig(family="ddpm", model=DDPMFlags())
    assert str(config.output_dir) == "ddpm-model"
    assert str(parse_vae([]).output_dir) == "vae-model"
    assert config.data.dataset_name == "ylecun/mnist"
    # what is open follows from the images and from the model to start from
    assert (config.model.model_config_name_or_path, config.model.ddpm_num_steps) == (None, None)


def test_every_flag_is_offered(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    offered = {word.strip("[],") for word in capsys.readouterr().out.split()}
    assert {f"--{name}" for name in FLAGS} <= offered


def test_flags_of_each_kind():
    config = parse(
        *"--dataset_name digits --resolution 8 --random_flip --use_ema False --learning_rate 2e-3".split(),
        *"--mixed_precision bf16 --lr_scheduler constant --max_train_steps=7".split(),
    )
    assert config.data.dataset_name == "digits"
    assert config.data.resolution == 8
    assert config.data.random_flip is True
    assert config.optimization.use_ema is False
    assert config.optimization.learning_rate == 2e-3
    assert config.optimization.mixed_precision == "bf16"
    assert config.optimization.lr_scheduler == "constant"
    assert config.optimization.max_train_steps == 7


def test_yaml_overrides_defaults_and_flags_override_yaml(yaml_file):
    path = yaml_file(
        "dataset_name: digits\nlearning_rate: 2.0e-3\nuse_ema: false\nresolution: null\n"
        "train_batch_size: 32\nrandom_flip: true\nseed: 5\n"
    )
    for argv in (
        ("--config", path, "--train_batch_size", "8", "--random_flip", "False"),
        ("--train_batch_size", "8", "--random_flip", "False", "--config", path),
    ):
        config = parse(*argv)
        assert config.data.dataset_name == "digits"
        assert config.data.resolution is None
        assert config.data.random_flip is False
        assert config.optimization.learning_rate == 2e-3
        assert config.optimization.use_ema is False
        assert config.optimization.train_batch_size == 8
        assert config.optimization.seed == 5
        assert config.optimization.eval_batch_size == OptimizationConfig().eval_batch_size
        assert config.run.config == path


def test_yaml_values_that_look_like_flags_stay_values(yaml_file):
    config = parse("--config", yaml_file("dataset_name: --odd name\ntrain_split: '12'\nlearning_rate: 1e-4\n"))
    assert config.data.dataset_name == "--odd name"
    assert config.data.train_split == "12"
    assert config.optimization.learning_rate == 1e-4  # YAML 1.1 reads 1e-4 as text


@pytest.mark.parametrize("preset", ["digits", "mnist", "cifar10"])
def test_presets_parse(preset, repository):
    config = parse("--config", str(repository / "training" / f"{preset}.yaml"))
    assert config.model.model_config_name_or_path == preset
    assert config.data.dataset_name.endswith(preset)


VAE_PRESETS = ["digits", "mnist-2d", "mnist-50d", "mnist-50d-wide", "mnist-grey", "mnist-conv"]


@pytest.mark.parametrize("preset", VAE_PRESETS)
def test_vae_presets_parse(preset, repository):
    config = parse_vae(["--config", str(repository / "training" / f"vae-{preset}.yaml")])
    assert config.model.model_config_name_or_path == preset
    assert config.data.dataset_name.endswith(preset.split("-")[0])


def test_preset_of_the_importance_weighted_bound(repository):
    config = parse_vae(["--config", str(repository / "training/vae-mnist-50d-iw.yaml")])
    assert (config.model.objective, config.model.num_latent_samples) == ("iw", 50)


def test_preset_of_classes(repository):
    config = parse("--config", str(repository / "training/mnist-class-conditional.yaml"))
    assert (config.model.class_conditional, config.model.ddpm_variance_type) == (True, "learned_range")


def test_preset_of_the_speedrun(repository):
    config = parse("--config", str(repository / "training/mnist-speedrun.yaml"))
    assert (config.model.class_conditional, config.run.save_images_epochs) == (True, 0)
    assert config.optimization.max_train_steps > config.optimization.lr_warmup_steps


def test_preset_of_8_bit_pixels(repository):
    config = parse_vae(["--config", str(repository / "training/vae-mnist-8bit.yaml")])
    assert (config.model.model_config_name_or_path, config.model.likelihood) == ("mnist-50d", "discretized_logistic")


def test_preset_of_the_demo(repository):
    config = parse("--config", str(repository / "training/digits-class-conditional.yaml"))
    assert (config.model.class_conditional, config.optimization.max_train_steps) == (True, 250)


VDM_PRESETS = ["digits", "mnist", "mnist-gpu", "cifar10"]


@pytest.mark.parametrize("preset", VDM_PRESETS)
def test_vdm_presets_parse(preset, repository):
    config = parse_training_config("vdm", ["--config", str(repository / "training" / f"vdm-{preset}.yaml")])
    assert config.model.model_config_name_or_path == preset
    assert config.data.dataset_name.endswith(preset.split("-")[0])


MHVAE_PRESETS = ["digits", "mnist-2", "mnist-5", "mnist-8bit"]


@pytest.mark.parametrize("preset", MHVAE_PRESETS)
def test_mhvae_presets_parse(preset, repository):
    config = parse_training_config("mhvae", ["--config", str(repository / "training" / f"mhvae-{preset}.yaml")])
    assert config.model.model_config_name_or_path == preset
    assert config.data.dataset_name.endswith(preset.split("-")[0])


DREG_PRESETS = ["vae-mnist-50d-dreg", "mhvae-mnist-2-dreg"]


@pytest.mark.parametrize("preset", DREG_PRESETS)
def test_presets_of_doubly_reparameterised_gradients(preset, repository):
    config = parse_training_config(
        preset.partition("-")[0], ["--config", str(repository / "training" / f"{preset}.yaml")]
    )
    assert (config.model.objective, config.model.num_latent_samples) == ("dreg", 50)


FLOW_AND_GAN_PRESETS = ["digits", "mnist"]


@pytest.mark.parametrize("kind", ["flow", "gan"])
@pytest.mark.parametrize("preset", FLOW_AND_GAN_PRESETS)
def test_presets_of_flows_and_gans_parse(kind, preset, repository):
    config = parse_training_config(kind, ["--config", str(repository / "training" / f"{kind}-{preset}.yaml")])
    assert config.model.model_config_name_or_path == preset
    assert config.data.dataset_name.endswith(preset)


LATENT_PRESETS = {
    "autoencoder-digits": ("autoencoder", "digits"),
    "autoencoder-mnist": ("autoencoder", "mnist"),
    "ldm-digits": ("ddpm", "latent-4"),
    "ldm-mnist": ("ddpm", "latent-7"),
    "dit-digits": ("ddpm", "dit-4"),
    "dit-mnist": ("ddpm", "dit-7"),
}


@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_presets_of_latents_parse(preset, repository):
    family, model = LATENT_PRESETS[preset]
    config = parse_training_config(family, ["--config", str(repository / "training" / f"{preset}.yaml")])
    assert config.model.model_config_name_or_path == model
    assert config.data.dataset_name.endswith(preset.partition("-")[2])


def test_presets_of_words_and_of_pictures_to_follow(repository):
    configs = {
        name: parse_training_config(family, ["--config", str(repository / "training" / f"{name}.yaml")])
        for name, family in WORDS_PRESETS.items()
    }
    assert configs["sd-mnist"].model.model_config_name_or_path == "text-8"
    assert configs["text-to-image-digits"].data.caption_template == "a handwritten {}"
    assert configs["controlnet-mnist"].data.condition == "skeleton"


WORDS_PRESETS = {"text-to-image-digits": "text_to_image", "sd-mnist": "text_to_image", "controlnet-mnist": "controlnet"}


VIDEO_PRESETS = {
    "autoencoder-moving-mnist": "autoencoder",
    "moving-digits": "text_to_image",
    "moving-mnist": "text_to_image",
    "video-digits": "video",
    "video-mnist": "video",
}


@pytest.mark.parametrize("preset", VIDEO_PRESETS)
def test_presets_of_what_moves_parse(preset, repository):
    config = parse_training_config(VIDEO_PRESETS[preset], ["--config", str(repository / "training" / f"{preset}.yaml")])
    assert config.data.dataset_name.startswith("moving:")
    assert config.data.dataset_name.endswith(preset.rpartition("-")[2])
    if config.family == "video":
        assert config.data.num_frames <= config.model.motion_max_seq_length


def test_all_presets_are_tested(repository):
    tested = {
        *VIDEO_PRESETS,
        *WORDS_PRESETS,
        *LATENT_PRESETS,
        *(f"mhvae-{preset}" for preset in MHVAE_PRESETS),
        *DREG_PRESETS,
        *(f"flow-{preset}" for preset in FLOW_AND_GAN_PRESETS),
        *(f"gan-{preset}" for preset in FLOW_AND_GAN_PRESETS),
        "digits",
        "digits-class-conditional",
        *(f"vdm-{preset}" for preset in VDM_PRESETS),
        "mnist",
        "cifar10",
        "vae-mnist-50d-iw",
        "vae-mnist-8bit",
        "mnist-class-conditional",
        "mnist-speedrun",
        *(f"vae-{preset}" for preset in VAE_PRESETS),
    }
    assert {path.stem for path in (repository / "training").glob("*.yaml")} == tested


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\nbatch: 2\n", "has unknown keys: learning_rat, batch; --help lists the flags"),
        ("config: other.yaml\n", "has unknown keys: config"),
        ("- learning_rate\n", "holds no flags: write lines such as"),
        ("learning_rate\n", "holds no flags"),
        ("", "holds no flags"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_yaml_that_cannot_be_used(yaml_file, text, message):
    with pytest.raises(HfgenError, match=message) as error:
        parse("--config", yaml_file(text))
    assert "config.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_file_that_is_missing(tmp_path):
    with pytest.raises(HfgenError, match=r"none\.yaml' cannot be read .*No such file"):
        parse("--config", str(tmp_path / "none.yaml"))
    with pytest.raises(HfgenError, match=r"cannot be read .*directory"):
        parse("--config", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        *((name, value, "greater than 0") for name in POSITIVE for value in ("0", "-1")),
        *((name, "-1", "0 or greater") for name in NOT_NEGATIVE),
        *((name, value, "from 0 to below 1") for name in BELOW_ONE for value in ("1", "-0.1")),
        ("learning_rate", "nan", "greater than 0"),
        *(("seed", value, "0 or greater and below 2\\*\\*32") for value in ("-1", str(2**32))),
    ],
)
def test_numbers_out_of_range(name, value, rule):
    of_a_vae = name in {item.name for item in fields(VAEFlags)}
    with pytest.raises(HfgenError, match=rf"^{name}={value}(\.0)?: it must be {rule}$"):
        parse_training_config("vae" if of_a_vae else "ddpm", [f"--{name}={value}"])


def test_numbers_at_the_ends_of_their_ranges():
    config = parse("--seed=0", "--max_grad_norm=0", "--lr_warmup_steps=0", "--adam_beta1=0", "--num_epochs=1")
    assert config.optimization.adam_beta1 == 0
    assert config.optimization.num_epochs == 1


def test_ranges_in_yaml_are_checked(yaml_file):
    with pytest.raises(HfgenError, match="num_epochs=0: it must be greater than 0"):
        parse("--config", yaml_file("num_epochs: 0\n"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size", "4"], "unrecognized arguments: --batch_size 4"),
        (["--learning", "4"], "unrecognized arguments: --learning 4"),
        (["--train_batch_size", "four"], r"argument --train_batch_size\S*: invalid int value: 'four'"),
        (["--lr_scheduler", "square"], r"argument --lr_scheduler\S*: invalid choice: 'square'"),
        (["--num_epochs"], r"argument --num_epochs\S*: expected one argument"),
        (["--config"], r"argument --config\S*: expected one argument"),
        (["digits"], "unrecognized arguments: digits"),
    ],
)
def test_a_wrong_flag_ends_with_one_line_and_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*argv)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(rf"error: {message}.*; see --help$", captured.err)


def test_a_wrong_value_in_yaml_ends_as_a_wrong_flag(yaml_file, capsys):
    with pytest.raises(SystemExit) as end:
        parse("--config", yaml_file("train_batch_size: four\n"))
    assert end.value.code == 2
    assert re.search(r"--train_batch_size\S*: invalid int value: 'four'", capsys.readouterr().err)


def test_yaml_words_that_yaml_takes_for_booleans_stay_words(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("mixed_precision: no\nuse_ema: no\nmax_train_steps: null\n")
    config = parse(f"--config={path}")
    assert (config.optimization.mixed_precision, config.optimization.use_ema) == ("no", False)
    assert config.optimization.max_train_steps is None


def test_yaml_list_and_binary_file_are_refused_in_a_line(tmp_path):
    path = tmp_path / "c.yaml"
    for content, message in (
        (b"dataset_name: [a, b]\n", "dataset_name is no single value"),
        (b"\xff\xfe", "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(HfgenError, match=message):
            parse(f"--config={path}")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Flags of a command."""

    count: int = flag(4, "how many", range=POSITIVE_RANGE)
    ink: Literal["black", "red"] | None = flag(None, "its colour; none: any")
    pen_names: tuple[str, ...] | None = flag(None, "in turn")
    fast: bool = flag(True, "be quick, by 50%")
    options: dict = field(default_factory=dict)


def test_dataclasses_and_other_arguments_are_parsed_together():
    parser = Parser(prog="draw")
    parser.add_argument("place")
    parser.add_argument("--out", type=Path, default=Path("x.png"))
    words = ["here", "--count=2", "--pen-names", "a", "b", "--ink", "red", "--no-fast", "--random_flip"]
    drawing, data, rest = parse_into(parser, [Drawing, DataConfig], words)
    assert drawing == Drawing(count=2, ink="red", pen_names=("a", "b"), fast=False)
    assert data == DataConfig(random_flip=True)
    assert vars(rest) == {"place": "here", "out": Path("x.png")}


def test_only_what_is_given_is_taken():
    parser = Parser()
    parser.add_argument("--count", type=int, default=9)
    parser.add_flags(Drawing, only_given=True)
    assert vars(parser.parse_args([])) == {"count": 9}
    assert vars(parser.parse_args(["--count", "1", "--no_fast"])) == {"count": 1, "fast": False}


def test_numbers_of_any_dataclass_are_checked():
    with pytest.raises(HfgenError, match=r"^count=0: it must be greater than 0$"):
        parse_into(Parser(), [Drawing], ["--count", "0"])


def test_fields_without_a_help_are_no_flags(capsys):
    with pytest.raises(SystemExit) as end:
        parse_into(Parser(prog="draw"), [Drawing], ["--options", "x"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "draw: error: unrecognized arguments: --options x; see --help\n"


def test_help_tells_defaults_and_what_a_negated_flag_does(capsys):
    with pytest.raises(SystemExit):
        parse_into(Parser(), [Drawing], ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--count N how many (default: 4)" in shown
    assert "--fast [BOOL] be quick, by 50% (default: True)" in shown
    assert "--no_fast, --no-fast turn --fast off" in shown
    assert "{black,red} its colour; none: any --" in shown


def test_help_of_a_negated_flag_of_the_trainers(capsys):
    with pytest.raises(SystemExit):
        parse("--no_use_ema", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--no_use_ema, --no-use-ema turn --use_ema off" in shown
    assert shown.count("keep a moving average") == 1


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("T", True), ("1", True), ("No", False), ("f", False)])
def test_words_for_true_and_false(word, value):
    assert parse("--use_ema", word).optimization.use_ema is value


def test_a_word_that_is_neither_true_nor_false(capsys):
    with pytest.raises(SystemExit):
        parse("--use_ema", "maybe")
    assert "'maybe' is neither true nor false" in capsys.readouterr().err


def test_the_parser_is_light():
    code = "import sys, hfgen.cli.parser; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
