"""Pulling: by revision, offline, with tokens; what goes wrong is one line, and nothing of a repository is executed."""

import json
import pickle
import subprocess

import pytest
import torch
from hub_users import without_bars

from hfgen.pipelines import VAEPipeline

DRAW = """
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(arguments[0], trust_remote_code=True, **dict(a.split("=") for a in arguments[1:]))
answer["images"] = pipeline(2, torch.Generator().manual_seed(0), output_type="pt").images.tolist()
"""
SNAPSHOT = """
from huggingface_hub import snapshot_download

answer["folder"] = snapshot_download(arguments[0])
"""


def images_of(folder):
    return VAEPipeline.from_pretrained(folder)(2, torch.Generator().manual_seed(0), output_type="pt").images.tolist()


@pytest.fixture
def two_versions(hub, ours, vae_folder, tmp_path):
    """A repository whose main was committed to twice and whose branch `old` holds the first version; their images."""
    first, second = vae_folder("first"), vae_folder("second")
    ours.hfgen("publish", first, "alice/versions").check()
    ours.hfgen("publish", first, "alice/versions", "--revision", "v1/old").check()
    ours.hfgen("publish", second, "alice/versions").check()
    return {"first": images_of(first), "second": images_of(second)}


def test_a_revision_is_a_commit_or_a_branch(hub, ours, stranger, two_versions, tmp_path):
    assert two_versions["first"] != two_versions["second"]
    _, sha, newest = hub.repositories["alice/versions"].branches["main"]
    for revision, version in ((sha, "first"), ("v1/old", "first"), (newest, "second"), ("main", "second")):
        drawn = stranger.run(DRAW, "alice/versions", f"revision={revision}", token=None).check().answer["images"]
        assert torch.tensor(drawn).allclose(torch.tensor(two_versions[version]), rtol=0, atol=1e-5), revision
    grids = {}
    for revision in (sha, "v1/old", newest, None):
        flags = ["--revision", revision] if revision else []
        ours.hfgen("sample", "alice/versions", *flags, "--out", tmp_path / "grid.png", token=None).check()
        grids[revision] = (tmp_path / "grid.png").read_bytes()
    assert grids[sha] == grids["v1/old"] != grids[newest] == grids[None]
    message = ours.hfgen("sample", "alice/versions", "--revision", "v9", token=None).refusal()
    assert "alice/versions has no revision 'v9': pass a branch, tag or commit that it has" in message


def offline(python, command, cwd):
    """A process of its own: HF_HUB_OFFLINE is read when the libraries are imported."""
    variables = {**python.variables, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([python.executable, *command], capture_output=True, text=True, cwd=cwd, env=variables)


def test_a_stranger_loads_a_snapshot_offline(hub, ours, stranger, vae_folder, tmp_path):
    folder = vae_folder("snapped")
    ours.hfgen("publish", folder, "alice/snapped").check()
    stranger.forget()
    snapshot = stranger.run(SNAPSHOT, "alice/snapped", token=None).check().answer["folder"]
    hub.requests.clear()
    code = f"arguments, answer = [{snapshot!r}], {{}}\n{DRAW}\nimport json\nprint(json.dumps(answer))"
    done = offline(stranger, ["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = json.loads(done.stdout)["images"]
    assert torch.tensor(drawn).allclose(torch.tensor(images_of(folder)), rtol=0, atol=1e-5)
    assert hub.requests == []


OFFLINE_COMMANDS = """
import sys
from hfgen.cli.main import main

print(main(["sample", "alice/cached", "--out", "offline.png"]))
print(main(["sample", "alice/cached", "--revision", sys.argv[1], "--out", "pinned.png"]))
print(main(["sample", "alice/elsewhere"]))
"""


def test_hfgen_samples_offline_what_it_has_pulled(hub, ours, vae_folder, tmp_path):
    ours.forget()
    ours.hfgen("publish", vae_folder("cached"), "alice/cached").check()
    ours.hfgen("sample", "alice/cached", "--out", tmp_path / "online.png", token=None).check()
    hub.requests.clear()
    done = offline(ours, ["-c", OFFLINE_COMMANDS, hub.repositories["alice/cached"].resolve("main")], tmp_path)
    assert done.stdout.split()[-1] == "1", done.stderr
    for name in ("offline.png", "pinned.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "online.png").read_bytes()
    (line,) = without_bars(done.stderr)
    assert "alice/elsewhere is no folder here, is not in the cache, and the Hub cannot be reached" in line
    assert "HF_HUB_OFFLINE" in line
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alice/nothing", "alice/nothing is neither a folder here nor a repository on the Hub that you may see"),
        ("nothing", "nothing is neither a folder here nor a repository on the Hub that you may see"),
        ("no name", "'no name' is neither a folder here nor a repository name: pass a path or user/name"),
        ("alice/..", "'alice/..' is neither a folder here nor a repository name"),
        ("alice/vae/vae", "alice/vae/vae does not exist: pass a pipeline's folder, or a repository on the Hub"),
    ],
)
def test_names_of_nothing(ours, name, message):
    assert message in ours.hfgen("sample", name).refusal()


def test_a_wrong_token_is_named(hub, ours, vae_folder):
    for name, flags in (("open", []), ("closed", ["--private"])):
        ours.hfgen("publish", vae_folder(name), f"alice/{name}", *flags).check()
        ours.forget()
        message = ours.hfgen("sample", f"alice/{name}", token="hf_wrong").refusal()
        assert message.startswith("hfgen: error: the Hub does not accept the token: log in with `hf auth login`")


def test_a_private_pipeline_with_code_needs_the_token_in_the_environment(ours, stranger, vae_folder):
    ours.hfgen("publish", vae_folder("members"), "alice/members", "--private").check()
    stranger.forget()
    for token in (None, "hf_bob"):
        refused = stranger.run(DRAW, "alice/members", token=token)
        assert refused.status == 1
        assert "Repository Not Found" in refused.err
    assert len(stranger.run(DRAW, "alice/members", token="hf_alice").check().answer["images"]) == 2


def test_a_download_that_breaks_off_is_named_and_can_be_repeated(hub, ours, vae_folder, tmp_path):
    ours.hfgen("publish", vae_folder("broken"), "alice/broken").check()
    ours.forget()
    hub.fail("GET", "/alice/broken/resolve/.*safetensors", status=507, times=1)
    done = ours.hfgen("sample", "alice/broken", "--out", tmp_path / "grid.png")
    assert done.status == 1
    assert "hfgen: error: the Hub failed for alice/broken (" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    ours.hfgen("sample", "alice/broken", "--out", tmp_path / "grid.png").check()


class Bomb:
    """What touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


UPLOAD = """
from huggingface_hub import HfApi

HfApi().create_repo(arguments[0])
HfApi().upload_folder(repo_id=arguments[0], folder_path=arguments[1])
"""
CLASSES = """
from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

for kind, where in (
    (VAEPipeline, {}), (MLPVAE, {"subfolder": "vae"}), (VAEPipeline, {"use_safetensors": True}), (UnconditionalDiffusionPipeline, {})
):
    for place in arguments:
        try:
            kind.from_pretrained(place, **where)
        except Exception:
            continue
        raise SystemExit(f"{kind.__name__} has loaded {place}")
"""


def test_pickled_weights_are_never_unpickled(hub, ours, vae_folder, ddpm_folder, tmp_path):
    proof = tmp_path / "executed"
    for folder, part in ((vae_folder("bomb-vae"), "vae"), (ddpm_folder("bomb-ddpm"), "unet")):
        (folder / part / "diffusion_pytorch_model.safetensors").unlink()
        weights = folder / part / "diffusion_pytorch_model.bin"
        weights.write_bytes(pickle.dumps(Bomb(proof)))
        repo = f"alice/{folder.name}"
        ours.run(UPLOAD, repo, folder).check()
        for place in (repo, folder):
            message = ours.hfgen("sample", place, "--out", tmp_path / "grid.png").refusal()
            assert f"{part}/diffusion_pytorch_model*.safetensors missing" in message
            ours.run(CLASSES, place).check()
        assert not proof.exists()
        with weights.open("rb") as file:
            pickle.load(file)
        assert proof.exists()
        proof.unlink()
