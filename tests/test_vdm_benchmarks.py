"""The benchmarks of bounds and of noise schedules, small."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from hfgen.pipelines import UnconditionalDiffusionPipeline

pytestmark = pytest.mark.slow

UNET = {
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}


@pytest.fixture(autouse=True)
def benchmarks(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))


def test_the_two_ways_agree_and_the_third_is_none(tmp_path, monkeypatch):
    """Within five standard errors, all of which a bound of 20 terms has small enough to tell the third way apart."""
    import two_bounds

    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **UNET)
    UnconditionalDiffusionPipeline(unet, DDPMScheduler(20, beta_end=0.5)).save_pretrained(tmp_path / "model")
    out = tmp_path / "out.json"
    flags = [
        str(tmp_path / "model"),
        "--dataset_name",
        "digits",
        "--rounds",
        "100",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    monkeypatch.setattr("sys.argv", ["two_bounds.py", *flags])
    two_bounds.main()
    ways = json.loads(out.read_text())["ways"]
    posteriors, pairs, third = (ways[name] for name in ("posteriors", "pairs", "KL of pairs"))
    error = (posteriors["standard_error"] ** 2 + pairs["standard_error"] ** 2) ** 0.5
    assert abs(posteriors["bits_per_dim"] - pairs["bits_per_dim"]) < 5 * error
    assert third["bits_per_dim"] - pairs["bits_per_dim"] > 5 * third["standard_error"]
    for way in ways.values():
        assert way["draws_for_0.01_spread_evenly"] <= 1.1 * way["draws_for_0.01"]


def test_schedules_side_by_side(tmp_path, monkeypatch):
    import schedules

    monkeypatch.setattr(schedules, "SCHEDULES", ("scalar",))

    (tmp_path / "vdm.json").write_text(json.dumps({"unet_config": UNET, "gamma_features": 8, "fourier_features": []}))
    (tmp_path / "vdm.yaml").write_text(
        f"model_config_name_or_path: {tmp_path / 'vdm.json'}\nvalidation_split: test\ntrain_batch_size: 16\nlr_warmup_steps: 1\n"
        "vdm_num_inference_steps: 2\nmax_train_samples: 64\n"
    )
    out, table = tmp_path / "s.json", tmp_path / "s.md"
    flags = ["--dataset_name", "digits", "--config", str(tmp_path / "vdm.yaml"), "--steps", "2", "--evaluations", "800"]
    flags += ["--work", str(tmp_path / "work"), "--out", str(out), "--markdown", str(table)]
    schedules.main(flags)
    rows = json.loads(out.read_text())["rows"]
    assert [row["gamma"] for row in rows] == ["scalar"]
    assert (rows[0]["gamma_0"], rows[0]["gamma_1"]) == pytest.approx((-13.3, 5.0), abs=0.1)
    assert rows[0]["gamma_0"] != -13.3
    assert rows[0]["variance"] > 0
    assert rows[0]["evaluations_for_0.01"] == pytest.approx(rows[0]["variance"] * 1e4, abs=1)
    before = table.read_text()
    schedules.main(flags)  # from what is there, without training
    assert table.read_text() == before
