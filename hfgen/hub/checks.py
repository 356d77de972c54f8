"""What a folder says of itself, checked before a loader believes it; and its weights, checked before anybody uses them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.memory import check_fits

CONFIGS = ("config.json", "scheduler_config.json")
WEIGHTS = ("diffusion_pytorch_model", "model")
VARIANT = re.compile(rf"({'|'.join(WEIGHTS)})(?:-\d{{5}}-of-\d{{5}})?\.([\w-]+?)(?:-\d{{5}}-of-\d{{5}})?\.safetensors")
PLAIN = re.compile(rf"({'|'.join(WEIGHTS)})(?:-\d{{5}}-of-\d{{5}})?\.safetensors")
MOST_STEPS = 1_000_000
BYTES_A_STEP = 20  # beta, alpha and alpha_bar in float32, the timestep in int64
COUNTS = (
    "attention_head_dim",
    "block_out_channels",
    "hidden_sizes",
    "in_channels",
    "latent_channels",
    "latent_size",
    "layers_per_block",
    "norm_num_groups",
    "num_class_embeds",
    "num_train_timesteps",
    "out_channels",
)
NUMBERS = ("beta_start", "beta_end")
# keys whose value no scheduler or network does without
NEEDED = ("block_out_channels", "in_channels", "layers_per_block", "out_channels")


def check_configs(folder: Path, components: Mapping[str, str | None], name: str) -> None:
    """Raise `HfgenError` for a config of a component that is no JSON object or has a number that cannot be one.

    That is one of another kind, or so large that the machine would be at it for ever, or out of memory; it says what it would take.
    `components` has the class of each.
    """
    for component, cls in components.items():
        for path in (folder / component / file for file in CONFIGS):
            if path.is_file():
                where = f"{name}: {{}} in {component}/{path.name}"
                _check_config(folder / component, _read(path, name), where, image="UNet2D" in (cls or ""))


def check_headers(folder: Path, components: Iterable[str], name: str) -> None:
    """Raise `HfgenError` for a file of weights that is none of safetensors; it names the file."""
    for path in (path for component in components for path in sorted((folder / component).glob("*.safetensors"))):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise HfgenError(
                f"{name} cannot be loaded, a file is damaged or missing ({path.parent.name}/{path.name}: {one_line(error, 200)}): fetch it "
                "or train it again"
            ) from error


def weights_variant(folder: Path, components: Iterable[str], name: str) -> str | None:
    """The middle of the weights' names, such as "fp16", where a component has no plain ones; None where all have.

    Raises `HfgenError` where there are several to choose from.
    """
    choices: set[str] | None = None
    for component in components:
        files = [path.name for path in (folder / component).glob("*.safetensors")]
        variants = {found[2] for file in files if (found := VARIANT.fullmatch(file))}
        if variants and not any(PLAIN.fullmatch(file) for file in files):
            choices = variants if choices is None else choices & variants
    if choices is None:
        return None
    if len(choices) != 1:
        raise HfgenError(
            f"{name} has weights of the variants {', '.join(sorted(choices)) or 'that differ by component'} alone, and hfgen does not "
            "choose: keep one of them"
        )
    return choices.pop()


def check_weights(components: Mapping[str, Any], folder: Path, variant: str | None, name: str) -> None:
    """Raise `HfgenError` for weights that a file lacks or has too many, and for those that are not finite; it names the first."""
    for component, module in components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        state = module.state_dict()
        there = _names(folder / component, module, variant)
        missing = next((key for key, tensor in state.items() if tensor.is_meta), None)
        if missing is not None:
            raise HfgenError(
                f"{name}: the weights of {component} lack the tensor {missing}: fetch them or train the model again"
            )
        extra = next((key for key in sorted(there - state.keys())), None)
        if extra is not None:
            raise HfgenError(
                f"{name}: the weights of {component} have a tensor {extra}, for which its config.json has no place: fetch both again"
            )
        bad = next(
            (key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()), None
        )
        if bad is not None:
            raise HfgenError(
                f"{name}: the weights of {component} are not finite ({bad} holds nan or inf): nothing that such a model gives is a "
                "result; fetch them or train the model again"
            )


def _names(place: Path, module: torch.nn.Module, variant: str | None) -> set[str]:
    """What the files of diffusers' weights name, as the module calls it today; nothing of those of other libraries."""
    rename = getattr(module, "_fix_state_dict_keys_on_load", None)
    if rename is None:
        return set()
    names: dict[str, None] = {}
    for path in place.glob("*.safetensors"):
        of_variant = VARIANT.fullmatch(path.name)
        if of_variant[2] == variant if of_variant else PLAIN.fullmatch(path.name):
            with safe_open(path, framework="pt") as file:
                names |= dict.fromkeys(file.keys())
    rename(names)
    ignored = module._keys_to_ignore_on_load_unexpected or []
    return {key for key in names if not any(re.search(pattern, key) for pattern in ignored)}


def _read(path: Path, name: str) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HfgenError(
            f"{name} cannot be loaded, {path.parent.name}/{path.name} is no JSON ({' '.join(str(error).split())[:200]}): fetch it or "
            "train it again"
        ) from error
    if not isinstance(config, dict):
        raise HfgenError(
            f"{name}: {path.parent.name}/{path.name} holds a {type(config).__name__}, no object: fetch it or train it again"
        )
    return config


def _check_config(place: Path, config: Mapping[str, Any], where: str, image: bool) -> None:
    """`where` has a place for the value in question."""

    def refuse(key: str, wanted: str) -> HfgenError:
        value = f"{key} is {json.dumps(config[key])[:60]}"
        return HfgenError(f"{where.format(value)}, {wanted}: mend it, or fetch it or train it again")

    if not isinstance(config.get("_class_name", ""), str):
        raise refuse("_class_name", "not a class")
    if "sample_size" in config and not _is_size(config["sample_size"], image):
        raise refuse("sample_size", "not a side of 1 or more, or [height, width]")
    for key in COUNTS:
        of_scheduler = "sample_size" not in config and key == "num_train_timesteps"
        may_be_none = key not in NEEDED and not of_scheduler
        if key in config and not _is_count(config[key], may_be_none, may_be_empty=key == "hidden_sizes"):
            raise refuse(key, "not a whole number of 1 or more")
    for key in NUMBERS:
        if isinstance(config.get(key, 0.0), bool) or not isinstance(config.get(key, 0.0), (int, float)):
            raise refuse(key, "not a number")
    steps = config.get("num_train_timesteps") or 0
    if steps > MOST_STEPS:
        raise refuse(
            "num_train_timesteps",
            f"whose tables alone take {steps * BYTES_A_STEP / 1e9:,.1f} GB; at most {MOST_STEPS:,}",
        )
    _check_depth(place, config, refuse)
    if image and config.get("block_out_channels"):
        _check_area(config, where)


def _check_depth(place: Path, config: Mapping[str, Any], refuse: Any) -> None:
    """A network cannot have more blocks than its weights have tensors."""
    layers = config.get("layers_per_block")
    if layers is None:
        return
    blocks = sum(_flat(layers)) * (1 if isinstance(layers, list) else len(_flat(config.get("block_out_channels", [1]))))
    tensors = 0
    for path in place.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors += len(file.keys())
    if blocks > max(tensors, 1):
        raise refuse("layers_per_block", f"which makes {blocks:,} blocks where the weights have {tensors:,} tensors")


def _check_area(config: Mapping[str, Any], where: str) -> None:
    """The first layer's output of one image must fit into the machine."""
    size = config.get("sample_size")
    if size is None:
        return
    height, width = (size, size) if isinstance(size, int) else size
    channels = max(_flat(config["block_out_channels"])[0], config.get("in_channels", 1))
    what = where.format(f"sample_size is {json.dumps(size)}")
    check_fits(
        4 * channels * height * width, f"{what}: one image in the first layer", "mend it, or use a larger machine"
    )


def _is_count(value: Any, may_be_none: bool, may_be_empty: bool = False) -> bool:
    if value is None:
        return may_be_none
    if isinstance(value, list):  # of lists too: the layers of each of several networks
        return (bool(value) or may_be_empty) and all(_is_count(part, False, may_be_empty) for part in value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_size(value: Any, image: bool) -> bool:
    if value is None or not _is_count(value, may_be_none=False):
        return value is None
    # three numbers and more are those of videos and volumes
    return isinstance(value, int) or len(_flat(value)) == 2 or not image


def _flat(value: Any) -> list[int]:
    return [part for item in value for part in _flat(item)] if isinstance(value, list) else [value]
