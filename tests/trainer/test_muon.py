"""Muon against the singular value decomposition, torch's own for matrices, and AdamW for what is no matrix."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hfgen.cli.parser import parse_training_config
from hfgen.core.errors import HfgenError
from hfgen.trainer.checkpoints import check_same_run
from hfgen.trainer.muon import Muon, is_kernel, orthogonal
from hfgen.trainer.setup import make_accelerator
from hfgen.trainer.turns import prepare_turns

SETTINGS = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1, "eps": 1e-8, "fused": True}


@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (20, 20)])
def test_rows_or_columns_become_orthogonal_and_directions_stay(shape):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ orthogonal(matrices) @ vh.mT
    values = inside.diagonal(dim1=1, dim2=2)
    assert (inside - torch.diag_embed(values)).abs().max() < 1e-9
    large = torch.linalg.svdvals(matrices) > 0.05 * torch.linalg.matrix_norm(matrices)[:, None]
    assert values[large].min() > 0.6
    assert values.max() < 1.3


def test_products_in_bf16_round_and_steps_keep_their_type():
    """To some roundings of 2^-8 of the largest singular values that the last iteration takes, 1.2."""
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 40)
    exact, rounded = orthogonal(matrices), orthogonal(matrices, torch.bfloat16)
    assert rounded.dtype == matrices.dtype
    assert 1e-3 < torch.linalg.matrix_norm(exact - rounded, ord=2).max() < 0.1


@pytest.mark.parametrize("products", [None, torch.bfloat16])
def test_matrices_step_as_torch_s_own_muon_has_them(products):
    """That one takes its products in bf16, whose rounding of 2^-8 five iterations of them let grow to some percent of a step."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(40, 24, bias=False), nn.Linear(40, 24, bias=False)
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    optimizers = (
        Muon(ours.parameters(), products=products, **SETTINGS),
        torch.optim.Muon(theirs.parameters(), lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        x = torch.randn(64, 40)
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            module(x).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    difference = (ours.weight - theirs.weight).norm() / (ours.weight - before).norm()
    assert difference < 0.05


def test_what_is_no_kernel_steps_as_adamw_has_it_and_kernels_of_convolutions_as_matrices():
    def network():
        torch.manual_seed(0)
        parts = [nn.Conv2d(1, 16, 3), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 1, 1)]
        return nn.Sequential(*parts).to(memory_format=torch.channels_last)

    ours, theirs = network(), network()
    x = torch.randn(8, 1, 8, 8)
    for module, kind in ((ours, Muon), (theirs, torch.optim.AdamW)):
        optimizer = kind(module.parameters(), **SETTINGS)
        module(x).pow(2).mean().backward()
        optimizer.step()
    assert [name for name, p in ours.named_parameters() if is_kernel(p)] == ["2.weight"]
    for name, p in ours.named_parameters():
        assert p.equal(theirs.get_parameter(name)) != is_kernel(p), name
    start = network()[2].weight.detach()
    step = ((ours[2].weight - (1 - 0.01 * 0.1) * start) / 0.01).detach().flatten(1)
    # of 16 x 144, whose orthogonal rows have 12 times the root of the mean square of their values for length
    assert step.norm(dim=1) == pytest.approx(torch.full((16,), 0.2 * 144**0.5), rel=0.3)


def test_a_training_goes_on_bit_for_bit(train, tmp_path):
    one = train(output_dir=tmp_path / "one", optimizer="muon")
    two = train(output_dir=tmp_path / "two", optimizer="muon", resume_from_checkpoint=one / "checkpoint-4")
    other = train(output_dir=tmp_path / "other")
    names = "unet/diffusion_pytorch_model.safetensors"
    weights = [load_file(out / names) for out in (one, two, other)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    assert not all(value.equal(weights[2][name]) for name, value in weights[0].items())
    with pytest.raises(HfgenError, match="optimizer: muon there, adamw here"):
        train(output_dir=tmp_path / "three", resume_from_checkpoint=one / "checkpoint-4")


@pytest.mark.parametrize(("precision", "products"), [("bf16", torch.bfloat16), ("no", None)])
def test_products_are_in_the_training_s_precision(train, tmp_path, monkeypatch, precision, products):
    seen = set()

    def spy(matrices, products):
        seen.add(products)
        return orthogonal(matrices, products)

    monkeypatch.setattr("hfgen.trainer.muon.orthogonal", spy)
    train(output_dir=tmp_path / "one", optimizer="muon", mixed_precision=precision)
    assert seen == {products}


def test_checkpoints_of_before_there_was_a_choice_are_adamw_s(tmp_path):
    check_same_run(tmp_path, {"seed": 0}, {"seed": 0, "optimizer": "adamw"})
    with pytest.raises(HfgenError, match="optimizer: adamw there, muon here"):
        check_same_run(tmp_path, {"seed": 0}, {"seed": 0, "optimizer": "muon"})


def test_what_it_cannot_train_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = ["--dataset_name=digits", "--optimizer=muon", "--mixed_precision=fp16"]
    with pytest.raises(HfgenError, match=r"optimizer='muon' with mixed_precision='fp16'.*use bf16"):
        make_accelerator(parse_training_config("ddpm", words))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # as `accelerate launch --mixed_precision fp16` leaves it
    with pytest.raises(HfgenError, match=r"optimizer='muon' with mixed_precision='fp16'"):
        make_accelerator(parse_training_config("ddpm", words[:2]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HfgenError, match="mixed_precision='fp16' needs a GPU"):
        make_accelerator(parse_training_config("ddpm", words[:1]))
    config = parse_training_config("ddpm", words[:2])
    task = SimpleNamespace(optimizers=("weights",), parameters=lambda module, name: module.parameters())
    accelerator = SimpleNamespace(is_fsdp2=True, device=torch.device("cpu"), mixed_precision="no")
    with pytest.raises(HfgenError, match=r"optimizer=muon: --use_fsdp.*use adamw"):
        prepare_turns(accelerator, task, nn.Linear(2, 2), config.optimization, 3)
