"""`load`: the family by the index, and never a line of a folder's code, whatever version of diffusers is installed."""

import json
import sys

import diffusers
import pytest
from diffusers import DDPMPipeline, DiffusionPipeline

from hfgen.core.errors import HfgenError
from hfgen.families.registry import get_family
from hfgen.hub.loading import load, load_folder
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

OWN_CODE = "brings code of its own, which hfgen does not run"


@pytest.fixture
def no_loader(monkeypatch):
    """Nothing of diffusers gets to see what is refused."""

    def reached(*args, **kwargs):
        raise AssertionError("diffusers was handed the folder")

    for kind in (DiffusionPipeline, DDPMPipeline, UnconditionalDiffusionPipeline, VAEPipeline):
        monkeypatch.setattr(kind, "from_pretrained", reached)
    for name in ("UNet2DModel", "DDPMScheduler"):
        monkeypatch.setattr(getattr(diffusers, name), "from_pretrained", reached)


def change(folder, **values):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def bomb(path, proof):
    path.write_text(
        f"open({str(proof)!r}, 'w').write('run')\n"
        "from diffusers import DDPMScheduler, UNet2DModel\n"
        "class Evil(DDPMScheduler): pass\n"
    )


def refusal(folder):
    with pytest.raises(HfgenError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_family_by_the_index(vae_folder, ddpm_folder):
    for folder, name, kind in (
        (vae_folder("one"), "vae", VAEPipeline),
        (ddpm_folder("two"), "ddpm", UnconditionalDiffusionPipeline),
    ):
        model = load(folder)
        assert model.family is get_family(name)
        assert type(model.pipeline) is kind
        assert (model.name, model.folder) == (folder.name, folder)
        assert model.image_shape == (1, 8, 8)


def test_the_device(ddpm_folder):
    assert load(ddpm_folder("meta"), device="meta").pipeline.unet.device.type == "meta"


@pytest.mark.parametrize(
    ("key", "value", "file"),
    [
        ("scheduler", ["evil", "Evil"], "scheduler/evil.py"),
        ("unet", ["evil", "UNet2DModel"], "unet/evil.py"),
        ("scheduler", ["diffusers", "DDPMScheduler"], "scheduler/diffusers.py"),
        ("scheduler", ["transformers", "DDPMScheduler"], "scheduler/transformers.py"),
        ("scheduler", ["scheduling_hfgen_posterior_mean", "Evil"], "scheduler/scheduling_hfgen_posterior_mean.py"),
        ("scheduler", ["evil", "PosteriorMeanDDPMScheduler"], "scheduler/evil.py"),
        ("_class_name", ["evil", "DDPMPipeline"], "evil.py"),
        ("_class_name", ["pipeline_hfgen_vae", "DDPMPipeline"], "pipeline_hfgen_vae.py"),
    ],
)
def test_code_of_a_folder_is_refused_before_diffusers_sees_it(no_loader, ddpm_folder, tmp_path, key, value, file):
    folder = ddpm_folder("evil")
    bomb(folder / file, tmp_path / "proof")
    change(folder, **{key: value})
    assert OWN_CODE in refusal(folder)
    assert not (tmp_path / "proof").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("key", "value", "file"),
    [
        ("vae", ["evil", "MLPVAE"], "vae/evil.py"),
        ("vae", ["modeling_hfgen_vae", "Evil"], "vae/modeling_hfgen_vae.py"),
        ("extra", ["evil", "Evil"], "extra/evil.py"),
        ("_class_name", ["evil", "VAEPipeline"], "evil.py"),
    ],
)
def test_code_of_a_vaes_folder_is_refused(no_loader, vae_folder, tmp_path, key, value, file):
    folder = vae_folder("evil-vae")
    (folder / file).parent.mkdir(exist_ok=True)
    bomb(folder / file, tmp_path / "proof")
    change(folder, **{key: value})
    assert OWN_CODE in refusal(folder)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1],
        ["diffusers"],
        ["diffusers", "DDPMScheduler", "more"],
        ["diffusers", 3],
        [["diffusers"], "x"],
        3,
        {},
        "x",
        None,
    ],
)
def test_a_component_that_is_no_module_and_class(no_loader, vae_folder, value):
    folder = vae_folder("wrong")
    change(folder, vae=value)
    message = refusal(folder)
    assert message.startswith(f"{folder}: vae is {json.dumps(value)} in model_index.json, not a module and a class")


@pytest.mark.parametrize("value", [[], ["x"], 3, None, {"a": ["b"]}, ["a", "b", "c"]])
def test_a_class_name_that_is_none(no_loader, vae_folder, value):
    folder = vae_folder("unnamed")
    change(folder, _class_name=value)
    assert f"_class_name is {json.dumps(value)} in model_index.json" in refusal(folder)


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "3"])
def test_an_index_that_is_no_object(vae_folder, text):
    folder = vae_folder("bare")
    (folder / "model_index.json").write_text(text)
    assert "model_index.json holds a" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00"])
def test_an_index_that_is_no_json(vae_folder, text):
    folder = vae_folder("broken")
    (folder / "model_index.json").write_text(text)
    assert "cannot be loaded, a file is damaged or missing" in refusal(folder)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", "null", '{"sample_size": {}, "num_train_timesteps": "x"}'])
def test_a_damaged_config(ddpm_folder, file, text):
    folder = ddpm_folder("damaged")
    (folder / file).write_text(text)
    assert str(folder) in refusal(folder)


def test_what_no_family_knows(no_loader, ddpm_folder):
    folder = ddpm_folder("unknown")
    change(folder, text_encoder=["transformers", "CLIPTextModel"])
    assert "is a DDPMPipeline of scheduler, text_encoder, unet" in refusal(folder)


def test_places_of_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for place, message in (
        (tmp_path / "file", "is a file: pass the folder that holds model_index.json"),
        (tmp_path / "nowhere", "does not exist: pass a pipeline's folder"),
        (tmp_path, "is no pipeline that can be loaded, model_index.json missing"),
    ):
        assert message in refusal(place)
    with pytest.raises(HfgenError, match="is no folder: pass that of a pipeline"):
        load_folder(tmp_path / "nowhere")
