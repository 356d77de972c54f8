"""From one user's Python to another's over the Hub, who has no hfgen, and on to a third's: the same images."""

import json

import numpy as np
import pytest

USERS = ("alice", "bob")
KINDS = ("mlp", "conv", "ddpm")
WAYS = ("pushed", "saved", "both")
REPOSITORIES = [f"{kind}-{way}" for kind in KINDS for way in WAYS]
VAES = [name for name in REPOSITORIES if not name.startswith("ddpm")]
# the same sums on the same machine, perhaps in another order
ROUNDING = {"rtol": 0, "atol": 1e-5}
LAYOUTS = {
    "ddpm": {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json"},
    "vae": {"model_index.json", "pipeline_hfgen_vae.py", "vae/config.json", "vae/modeling_hfgen_vae.py"},
}
WEIGHTS = "diffusion_pytorch_model.safetensors"

DRAW = """
import torch

def draw(pipeline):
    seed = torch.Generator().manual_seed(0)
    steps = {"num_inference_steps": 4} if hasattr(pipeline, "unet") else {}
    images = pipeline(batch_size=2, generator=seed, output_type="pt" if not steps else "np", **steps).images
    images = torch.as_tensor(images)
    return (images if not steps else images.permute(0, 3, 1, 2)).tolist()
"""
AUTHOR = """
from pathlib import Path
from diffusers import DDPMScheduler, UNet2DModel
from huggingface_hub import HfApi
from hfgen.models import MLPVAE, ConvVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

torch.manual_seed(0)
blocks = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "add_attention": False}
types = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
pipelines = {
    "mlp": VAEPipeline(MLPVAE(sample_size=8, latent_size=3, hidden_sizes=(16,))),
    "conv": VAEPipeline(ConvVAE(sample_size=8, latent_size=3, block_out_channels=(4, 6))),
    "ddpm": UnconditionalDiffusionPipeline(UNet2DModel(8, 1, 1, **blocks, **types), DDPMScheduler(25)),
}
with torch.no_grad():
    for weight in (w for kind in ("mlp", "conv") for w in pipelines[kind].vae.parameters()):
        weight *= 3  # else all images are nearly the same grey
folder = Path(arguments[0])
for kind, pipeline in pipelines.items():
    pipeline.push_to_hub(f"{kind}-pushed")
    pipeline.save_pretrained(folder / f"{kind}-saved")
    HfApi().create_repo(f"{kind}-saved")
    HfApi().upload_folder(repo_id=f"alice/{kind}-saved", folder_path=folder / f"{kind}-saved")
    pipeline.save_pretrained(folder / f"{kind}-both", push_to_hub=True)
    answer[kind] = draw(pipeline)

for kind, pipeline in pipelines.items():
    pipeline.save_pretrained(folder / "elsewhere" / kind, push_to_hub=True, repo_id=f"alice/named-{kind}", private=True)
pipelines["mlp"].vae.push_to_hub("lone-pushed")
pipelines["mlp"].vae.save_pretrained(folder / "lone-both", push_to_hub=True)
x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
answer["lone"] = pipelines["mlp"].vae.eval()(x).sample.tolist()
answer["unet"] = pipelines["ddpm"].unet.eval()(x, 3).sample.tolist()
"""
STRANGER = """
from diffusers import DiffusionPipeline

owner, trusting, names = arguments[0], arguments[1] == "trusting", arguments[2:]
for name in names:
    trust = {"trust_remote_code": True} if trusting else {}
    try:
        pipeline = DiffusionPipeline.from_pretrained(f"{owner}/{name}", **trust)
    except ValueError as error:
        answer[name] = f"refused: {error}"
        continue
    answer[name] = draw(pipeline)
    if owner == "alice":
        pipeline.push_to_hub(name)
"""


@pytest.fixture(scope="module")
def author(ours, tmp_path_factory):
    """Everything pushed by alice; images of each pipeline, outputs of the models alone."""
    return ours.run(DRAW + AUTHOR, tmp_path_factory.mktemp("author")).check().answer


@pytest.fixture(scope="module")
def bobs(author, stranger):
    """What bob saw when he pulled everything, which he then pushed to his own repositories."""
    stranger.forget()
    stock = [name for name in REPOSITORIES if name not in VAES]
    trusted = stranger.run(DRAW + STRANGER, "alice", "trusting", *VAES, token="hf_bob").check().answer
    return trusted | stranger.run(DRAW + STRANGER, "alice", "wary", *stock, token="hf_bob").check().answer


def files(hub, repo):
    return {path for path in hub.repositories[repo].files() if path not in (".gitattributes", "README.md")}


def tells_its_origin(hub, repo):
    files = hub.repositories[repo].files().items()
    return [path for path, content in files if path.endswith(".json") and b"_name_or_path" in content]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_way_leaves_the_same_repository(hub, author, name):
    kind = "ddpm" if name.startswith("ddpm") else "vae"
    assert files(hub, f"alice/{name}") == LAYOUTS[kind] | {f"{'unet' if kind == 'ddpm' else 'vae'}/{WEIGHTS}"}
    assert len(hub.repositories[f"alice/{name}"].branches["main"]) == 2
    assert not tells_its_origin(hub, f"alice/{name}")


@pytest.mark.parametrize("kind", KINDS)
def test_saving_pushes_to_the_repository_that_it_is_told(hub, author, kind):
    repository = hub.repositories[f"alice/named-{kind}"]
    assert repository.private
    assert files(hub, f"alice/named-{kind}") == files(hub, f"alice/{kind}-both")
    assert not hub.repositories[f"alice/{kind}-both"].private


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_stranger_draws_the_authors_images(author, bobs, name):
    images = np.array(bobs[name])
    assert images.shape == (2, 1, 8, 8)
    assert images[0].std() > 0.01
    expected = np.array(author[name.split("-")[0]])
    np.testing.assert_allclose(images, expected, **ROUNDING)


def test_what_a_stranger_pushes_again_loads_for_a_third(hub, author, bobs, stranger):
    stranger.forget()
    stock = [name for name in REPOSITORIES if name not in VAES]
    third = stranger.run(DRAW + STRANGER, "bob", "trusting", *VAES, token=None).check().answer
    third |= stranger.run(DRAW + STRANGER, "bob", "wary", *stock, token=None).check().answer
    for name in REPOSITORIES:
        assert files(hub, f"bob/{name}") == files(hub, f"alice/{name}")
        assert name not in VAES or not tells_its_origin(hub, f"bob/{name}")
        first, again = (json.loads(hub.repositories[f"{user}/{name}"].files()["model_index.json"]) for user in USERS)
        again.pop("_name_or_path", None)  # diffusers' own pipeline writes where it was loaded: alice's repository
        assert again == first
        np.testing.assert_allclose(np.array(third[name]), np.array(author[name.split("-")[0]]), **ROUNDING)


def test_pipelines_with_code_are_refused_without_trust(author, stranger):
    refused = stranger.run(DRAW + STRANGER, "alice", "wary", *VAES, token=None).check().answer
    assert all(refused[name].startswith("refused:") and "trust_remote_code=True" in refused[name] for name in VAES)


CLASSES = """
from hfgen.hub.loading import load
from hfgen.models import MLPVAE, ConvVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

kinds = {"mlp-pushed": VAEPipeline, "conv-both": VAEPipeline, "ddpm-pushed": UnconditionalDiffusionPipeline}
for name, kind in kinds.items():
    one, other = kind.from_pretrained(f"alice/{name}"), load(f"alice/{name}").pipeline
    assert type(one) is type(other) is kind
    answer[name] = [draw(one), draw(other)]
vae = MLPVAE.from_pretrained("alice/mlp-pushed", subfolder="vae")
alone = MLPVAE.from_pretrained("alice/lone-pushed")
assert type(vae) is type(alone) is MLPVAE
x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
answer["lone"] = [vae(x).sample.tolist(), alone(x).sample.tolist()]
import sys
answer["remote"] = [name for name in sys.modules if name.startswith("diffusers_modules.")]
"""


def test_hfgens_classes_load_them_without_remote_code(author, ours):
    ours.forget()
    done = ours.run(DRAW + CLASSES, token=None).check()
    assert "auto_map" not in done.err
    loaded = done.answer
    assert loaded.pop("remote") == []
    assert not list((ours.home / "modules").rglob("*hfgen*"))
    for name, both in loaded.items():
        for images in both:
            np.testing.assert_allclose(images, author[name.split("-")[0]], **ROUNDING)


MODELS = """
import torch
from diffusers import AutoModel

x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)

def refused(*where, **how):
    try:
        AutoModel.from_pretrained(*where, **how)
    except ValueError as error:
        return "trust_remote_code=True" in str(error)
    return False

answer["refused"] = refused("alice/mlp-pushed", subfolder="vae") and refused("alice/lone-pushed")
trust = {"trust_remote_code": True}
vaes = [AutoModel.from_pretrained(f"alice/{name}", subfolder="vae", **trust) for name in ("mlp-pushed", "mlp-both")]
vaes += [AutoModel.from_pretrained(f"alice/{name}", **trust) for name in ("lone-pushed", "lone-both")]
vaes[-1].push_to_hub("lone-pushed")
vaes.append(AutoModel.from_pretrained("bob/lone-pushed", **trust))
answer["lone"] = [vae(x).sample.tolist() for vae in vaes]
answer["unet"] = [AutoModel.from_pretrained("alice/ddpm-pushed", subfolder="unet")(x, 3).sample.tolist()]
"""


def test_a_component_alone_loads_for_a_stranger(author, stranger):
    stranger.forget()
    loaded = stranger.run(MODELS, token="hf_bob").check().answer
    assert loaded.pop("refused")
    for name, outputs in loaded.items():
        for output in outputs:
            np.testing.assert_allclose(output, author[name], **ROUNDING)


POISON = """
from pathlib import Path
from huggingface_hub import HfApi, snapshot_download

folder = snapshot_download("alice/mlp-pushed", local_dir=arguments[0])
for path in Path(folder).rglob("*.py"):
    path.write_text(path.read_text() + f"\\nopen({arguments[1]!r}, 'a').write('run')\\n")
HfApi().create_repo("poisoned")
HfApi().upload_folder(repo_id="alice/poisoned", folder_path=folder)
"""
WITHOUT_TRUST = """
from diffusers import AutoModel, DiffusionPipeline

for kind, where in ((DiffusionPipeline, {}), (AutoModel, {"subfolder": "vae"})):
    try:
        kind.from_pretrained("alice/poisoned", **where)
    except ValueError:
        answer[kind.__name__] = "refused"
"""
WITH_HFGEN = """
from hfgen.hub.loading import load
from hfgen.models import MLPVAE
from hfgen.pipelines import VAEPipeline

for flags in ({}, {"trust_remote_code": True}):
    assert type(VAEPipeline.from_pretrained("alice/poisoned", **flags).vae) is MLPVAE
assert type(load("alice/poisoned").pipeline.vae) is MLPVAE
assert type(MLPVAE.from_pretrained("alice/poisoned", subfolder="vae")) is MLPVAE
"""
WITH_TRUST = """
from diffusers import DiffusionPipeline

DiffusionPipeline.from_pretrained("alice/poisoned", trust_remote_code=True)
"""


def test_code_of_a_repository_runs_only_for_those_who_trust_it(author, ours, stranger, tmp_path):
    proof = tmp_path / "executed"
    ours.run(POISON, tmp_path / "poisoned", proof).check()
    ours.forget()
    refused = stranger.run(WITHOUT_TRUST, token=None).check().answer
    assert refused == {"DiffusionPipeline": "refused", "AutoModel": "refused"}
    ours.run(WITH_HFGEN, token=None).check()
    ours.hfgen("sample", "alice/poisoned", "--num_images", 2, "--out", tmp_path / "grid.png", token=None).check()
    assert not proof.exists()
    stranger.run(WITH_TRUST, token=None).check()
    assert proof.exists()
