"""`hfgen publish --space`: the demo page with the models that it shows, in one commit."""

import json

import yaml

from hfgen.hub.space import page_folder

SPACE = "spaces/alice/digits"
PAGE = {path.name for path in page_folder().iterdir() if path.is_file()}
ATTRIBUTES = ".gitattributes"


def remote(hub, name):
    return {path: content for path, content in hub.repositories[name].files().items() if path != ATTRIBUTES}


def head(text):
    return yaml.safe_load(text.decode().split("---")[1])


def test_the_page_goes_with_what_its_models_load(hub, ours, vae_folder, ddpm_folder):
    vae, ddpm = vae_folder("plane"), ddpm_folder("steps")
    for name in ("samples.png", "optimizer.log"):
        (vae / name).write_bytes(b"not needed")
    (vae / "results.json").write_text("{}")
    done = ours.hfgen("publish", "--space", "digits", vae, ddpm).check()
    files = remote(hub, SPACE)
    models = {
        *("plane/model_index.json", "plane/results.json", "plane/vae/config.json"),
        *("plane/vae/diffusion_pytorch_model.safetensors", "steps/model_index.json", "steps/unet/config.json"),
        *("steps/unet/diffusion_pytorch_model.safetensors", "steps/scheduler/scheduler_config.json"),
    }
    assert files.keys() == PAGE | {f"model_cards/{path}" for path in models}
    assert files["README.md"] == (page_folder() / "README.md").read_bytes()
    sha = hub.repositories[SPACE].resolve("main")
    assert done.out == f"{len(files)} files: {hub.url}/{SPACE}/commit/{sha}\n"
    again = ours.hfgen("publish", "--space", "alice/digits", vae, ddpm).check()
    assert again.out.startswith(f"alice/digits has these {len(files)} files already: ")
    assert len(hub.repositories[SPACE].branches["main"]) == 2


def test_what_was_pushed_loads_where_the_page_looks(hub, ours, vae_folder, tmp_path):
    ours.hfgen("publish", "--space", "alice/looks", vae_folder("walked")).check()
    for path, content in remote(hub, "spaces/alice/looks").items():
        (tmp_path / "space" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / path).write_bytes(content)
    code = """
import sys
sys.path.insert(0, arguments[0])
import pathlib, shelf
models = shelf.load_all(shelf.places(pathlib.Path(arguments[0])))
answer["models"] = {name: model.family.name for name, model in models.items()}
"""
    assert ours.run(code, tmp_path / "space").check().answer["models"] == {"walked": "vae"}


def test_public_repositories_are_named_and_fetched_by_the_page(hub, ours, vae_folder):
    ours.hfgen("publish", vae_folder("fetched"), "alice/fetched").check()
    ours.hfgen("publish", "--space", "alice/fetching", "alice/fetched").check()
    files = remote(hub, "spaces/alice/fetching")
    assert files.keys() == PAGE
    own = head((page_folder() / "README.md").read_bytes())
    assert head(files["README.md"]) == own | {"models": ["alice/fetched"]}


def test_a_model_that_the_page_could_not_fetch_is_refused(hub, ours, vae_folder):
    ours.hfgen("publish", vae_folder("hidden"), "alice/hidden", "--private").check()
    for model in ("alice/hidden", "alice/nowhere"):
        message = ours.hfgen("publish", "--space", "alice/blind", model).refusal()
        assert f"{model} is neither a folder here nor a repository on the Hub" in message
        assert message.endswith("a Space sees public repositories alone")
    assert "spaces/alice/blind" not in hub.repositories


def test_private_spaces_and_pull_requests(hub, ours, vae_folder):
    folder = vae_folder("shown")
    ours.hfgen("publish", "--space", "alice/own", folder, "--private").check()
    assert hub.repositories["spaces/alice/own"].private
    done = ours.hfgen("publish", "--space", "alice/asked", folder, "--create_pr").check()
    assert done.out.endswith(f"{hub.url}/spaces/alice/asked/discussions/1\n")
    assert remote(hub, "spaces/alice/asked") == {}


def test_what_nobody_should_have_is_refused_before_anything_is_made(hub, ours, vae_folder):
    folder = vae_folder("telling")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "training.json").write_text(json.dumps({**index, "note": "hf_alice"}))
    hub.requests.clear()
    message = ours.hfgen("publish", "--space", "alice/telling", folder).refusal()
    assert "training.json holds your token for the Hub, and is not pushed" in message
    assert hub.requests == []


def test_wrong_words(ours, vae_folder, tmp_path):
    folder = vae_folder("twice")
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "twice"
    copy.symlink_to(folder)
    for words, message in (
        ([folder, copy], "two models are called twice: rename the folder of one"),
        ([folder.parent], "is no pipeline that can be loaded, model_index.json missing"),
        ([tmp_path / "none"], "is neither a folder here nor a repository name"),
    ):
        assert message in ours.hfgen("publish", "--space", "alice/wrong", *words).refusal()
    assert "'a b' is no name of a repository" in ours.hfgen("publish", "--space", "a b", folder).refusal()
    for words in (
        ["--space", "a/b", folder, "--include", "a"],
        [folder],
        [folder, "--space", "a/b", folder],
        ["--space", "a/b"],
    ):
        assert ours.hfgen("publish", *words).status == 2
