"""`hfgen publish`: one commit of what belongs to the repository, or none."""

import json
import shutil
import threading
import time

import psutil
import pytest

VAE_FILES = {
    "README.md",
    "model_index.json",
    "pipeline_hfgen_vae.py",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/modeling_hfgen_vae.py",
}
ATTRIBUTES = ".gitattributes"


def commits(hub, repo, branch="main"):
    """How often the branch was committed to since the repository was made."""
    return len(hub.repositories[repo].branches[branch]) - 1


def remote(hub, repo, revision="main"):
    return {path: content for path, content in hub.repositories[repo].files(revision).items() if path != ATTRIBUTES}


def test_a_folder_is_pushed_in_one_commit_and_once(hub, ours, vae_folder):
    folder = vae_folder("once")
    done = ours.hfgen("publish", folder, "alice/once").check()
    assert commits(hub, "alice/once") == 1
    assert not hub.repositories["alice/once"].private
    assert remote(hub, "alice/once").keys() == VAE_FILES
    sha = hub.repositories["alice/once"].resolve("main")
    assert done.out == f"6 files: {hub.url}/alice/once/commit/{sha}\n"
    again = ours.hfgen("publish", folder, "alice/once").check()
    assert commits(hub, "alice/once") == 1
    assert again.out == f"alice/once has these 6 files already: {hub.url}/alice/once/commit/{sha}\n"


def test_a_change_is_one_more_commit_and_keeps_what_others_have_added(hub, ours, vae_folder):
    folder = vae_folder("changed")
    ours.hfgen("publish", folder, "changed").check()  # in the namespace of the token's user
    add = 'HfApi().upload_file(repo_id="alice/changed", path_in_repo="NOTICE", path_or_fileobj=b"by hand")'
    ours.run(f"from huggingface_hub import HfApi; {add}").check()
    weights = "vae/diffusion_pytorch_model.safetensors"
    shutil.copyfile(vae_folder("other") / weights, folder / weights)
    ours.hfgen("publish", folder, "changed").check()
    assert commits(hub, "alice/changed") == 3
    files = remote(hub, "alice/changed")
    assert files["NOTICE"] == b"by hand"
    assert files[weights] == (folder / weights).read_bytes()


def test_a_server_that_fails_leaves_the_files_and_the_push_can_be_repeated(hub, ours, vae_folder):
    """507: an error of the server that the client does not try again for half a minute."""
    folder = vae_folder("fragile")
    for place in (("PUT", "/lfs/"), ("POST", "/commit/")):
        fault = hub.fail(*place, status=507, times=1)
        message = ours.hfgen("publish", folder, "alice/fragile").refusal()
        assert fault.times == 0
        assert message.startswith("hfgen: error: the Hub failed for alice/fragile (")
        assert "507" in message
        assert message.endswith("try again later (a push is one commit or none, and can be repeated)")
        assert commits(hub, "alice/fragile") == 0
        assert remote(hub, "alice/fragile") == {}
    ours.hfgen("publish", folder, "alice/fragile").check()
    assert remote(hub, "alice/fragile").keys() == VAE_FILES
    before = remote(hub, "alice/fragile")
    (folder / "vae" / "config.json").write_text((folder / "vae" / "config.json").read_text() + "\n")
    hub.fail("POST", "/commit/", status=507)
    ours.hfgen("publish", folder, "alice/fragile").refusal()
    assert remote(hub, "alice/fragile") == before
    assert commits(hub, "alice/fragile") == 1


def test_a_killed_push_leaves_the_files_and_can_be_repeated(hub, ours, vae_folder):
    folder = vae_folder("killed")
    (folder / "samples.png").write_bytes(b"\x89PNG and more")
    fault = hub.fail("PUT", "/lfs/", after=1)
    done = []
    thread = threading.Thread(target=lambda: done.append(ours.hfgen("publish", folder, "alice/killed")))
    thread.start()
    deadline = time.monotonic() + 20
    while fault.after >= 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    for task in psutil.Process(ours.process.pid).children():
        task.kill()
    thread.join()
    assert done[0].status == -9
    hub.faults.clear()
    assert remote(hub, "alice/killed") == {}
    ours.hfgen("publish", folder, "alice/killed").check()
    assert commits(hub, "alice/killed") == 1
    assert remote(hub, "alice/killed").keys() == VAE_FILES | {"samples.png"}


def test_a_dropped_connection_is_tried_again(hub, ours, vae_folder):
    folder = vae_folder("dropped")
    hub.fail("PUT", "/lfs/", times=1)
    ours.hfgen("publish", folder, "alice/dropped").check()
    assert commits(hub, "alice/dropped") == 1


def test_a_hub_that_hangs_up_is_named(hub, ours, vae_folder):
    folder = vae_folder("deaf")
    hub.fail("GET", "/api/whoami-v2")
    message = ours.hfgen("publish", folder, "alice/deaf").refusal()
    assert message.startswith("hfgen: error: the Hub failed for alice/deaf (")
    assert message.endswith("try again later")
    assert "alice/deaf" not in hub.repositories


def test_a_branch_is_made_and_main_stays(hub, ours, vae_folder):
    folder = vae_folder("branched")
    for _ in range(2):
        ours.hfgen("publish", folder, "alice/branched", "--revision", "try/2d").check()
    assert commits(hub, "alice/branched") == 0
    assert remote(hub, "alice/branched") == {}
    assert commits(hub, "alice/branched", "try/2d") == 1
    assert remote(hub, "alice/branched", "try/2d").keys() == VAE_FILES


def test_a_pull_request_leaves_main(hub, ours, vae_folder):
    folder = vae_folder("proposed")
    done = ours.hfgen("publish", folder, "alice/proposed", "--create_pr").check()
    assert done.out == f"6 files: {hub.url}/alice/proposed/discussions/1\n"
    assert remote(hub, "alice/proposed") == {}
    assert remote(hub, "alice/proposed", "refs/pr/1").keys() == VAE_FILES
    ours.hfgen("publish", folder, "alice/proposed", "--create_pr", token="hf_bob").check()
    assert remote(hub, "alice/proposed", "refs/pr/2").keys() == VAE_FILES
    message = ours.hfgen("publish", folder, "alice/proposed", "--create_pr", "--revision", "v2").refusal()
    assert "revision='v2' with create_pr" in message


def test_a_private_repository_is_seen_by_its_owner_alone(hub, ours, vae_folder, tmp_path):
    folder = vae_folder("secret")
    ours.hfgen("publish", folder, "alice/secret", "--private").check()
    assert hub.repositories["alice/secret"].private
    ours.hfgen("publish", folder, "alice/secret", "--private").check()
    ours.hfgen("publish", folder, "alice/secret").check()
    assert commits(hub, "alice/secret") == 1
    for token in ("hf_bob", None):
        ours.forget()
        message = ours.hfgen("sample", "alice/secret", "--out", tmp_path / "grid.png", token=token).refusal()
        assert "alice/secret is neither a folder here nor a repository on the Hub that you may see" in message
        assert "hf auth login" in message
        assert "HF_TOKEN" in message
    ours.hfgen("sample", "alice/secret", "--out", tmp_path / "grid.png").check()
    assert (tmp_path / "grid.png").is_file()


def test_a_public_repository_is_not_taken_for_a_private_one(hub, ours, vae_folder):
    folder = vae_folder("public")
    ours.hfgen("publish", folder, "alice/public").check()
    (folder / "note.txt").write_text("for me alone")
    message = ours.hfgen("publish", folder, "alice/public", "--private").refusal()
    assert "alice/public is public already: make it private in its settings, or leave --private out" in message
    assert "note.txt" not in remote(hub, "alice/public")


def test_training_state_and_hidden_files_stay(hub, ours, vae_folder):
    folder = vae_folder("trained")
    for name in (
        "checkpoint-4/model.safetensors",
        "checkpoint-4/random_states_0.pkl",
        "checkpoint-4/scheduler.bin",
        "logs/hfgen/events.out.tfevents",
        "samples/step-4.png",
        "history.jsonl",
        ".unfinished-checkpoint-8/model.safetensors",
        ".env",
        "vae/.cache/secret",
        "vae/__pycache__/modeling_hfgen_vae.cpython-311.pyc",
        "__pycache__/pipeline_hfgen_vae.cpython-311.pyc",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not yours")
    for name in ("samples.png", "loss.png", "notes.txt"):
        (folder / name).write_bytes(b"yours")
    done = ours.hfgen("publish", folder, "alice/trained", "--include", "notes.txt").check()
    assert remote(hub, "alice/trained").keys() == VAE_FILES | {"samples.png", "loss.png", "notes.txt"}
    assert done.out.splitlines()[1:] == [
        "left here: checkpoint-4/, history.jsonl, logs/, samples/; name them with --include PATTERN to push them too"
    ]


@pytest.mark.parametrize("name", ["vae/model.bin", "a.ckpt", "a.npy", "vae/a.pt", "a.pkl", "a.PTH", "a.joblib"])
def test_pickled_weights_are_refused(hub, ours, vae_folder, name):
    folder = vae_folder("pickled")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x80\x04N.")
    message = ours.hfgen("publish", folder, "alice/pickled").refusal()
    assert f"weights that are not safetensors ({name})" in message
    assert "can run code" in message
    assert "alice/pickled" not in hub.repositories


@pytest.mark.parametrize("name", ["pipeline_hfgen_vae.py", "vae/modeling_hfgen_vae.py"])
def test_a_folder_without_its_code_is_refused(hub, ours, vae_folder, name):
    folder = vae_folder("codeless")
    (folder / name).unlink()
    message = ours.hfgen("publish", folder, "alice/codeless").refusal()
    assert f"lacks the code that model_index.json names ({name})" in message
    assert "save it again with save_pretrained" in message
    assert "alice/codeless" not in hub.repositories


def test_configs_do_not_tell_where_they_were_loaded_from(hub, ours, ddpm_folder):
    folder = ddpm_folder("moved")
    names = ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json")
    for name in names:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | {"_name_or_path": "/home/SECRETUSER/models"}))
    ours.hfgen("publish", folder, "alice/moved").check()
    for name in names:
        text = remote(hub, "alice/moved")[name].decode()
        assert "SECRETUSER" not in text
        local = json.loads((folder / name).read_text())
        local.pop("_name_or_path")
        assert json.loads(text) == local
    ours.hfgen("publish", folder, "alice/moved").check()
    assert commits(hub, "alice/moved") == 1


def test_code_on_the_card_names_the_repository_and_the_card_at_home_the_folder(hub, ours, vae_folder):
    folder = vae_folder("my-vae")
    ours.hfgen("publish", folder, "alice/renamed").check()
    card, sent = (folder / "README.md").read_text(), remote(hub, "alice/renamed")["README.md"].decode()
    assert 'DiffusionPipeline.from_pretrained("my-vae", trust_remote_code=True)' in card
    assert 'DiffusionPipeline.from_pretrained("alice/renamed", trust_remote_code=True)' in sent
    assert 'VAEPipeline.from_pretrained("alice/renamed")' in sent
    assert "hfgen sample alice/renamed --out" in sent
    assert "my-vae" not in sent.replace("# my-vae", "")
    ours.hfgen("publish", folder, "alice/renamed").check()
    assert (folder / "README.md").read_text() == card


def test_a_card_that_the_hub_refuses_is_named(hub, ours, vae_folder):
    folder = vae_folder("unlicensed")
    (folder / "README.md").write_text("---\nlicense: to kill\n---\n\n# By hand\n")
    message = ours.hfgen("publish", folder, "alice/unlicensed").refusal()
    assert "the Hub does not accept the card (" in message
    assert "'license' is not valid: 'to kill'" in message
    assert "mend the first block of README.md" in message
    assert remote(hub, "alice/unlicensed") == {}


@pytest.mark.parametrize("name", ["a b", "alice/vae/vae", "alice/..", "/tmp/vae", ""])
def test_what_is_no_name_of_a_repository(hub, ours, vae_folder, name):
    hub.requests.clear()
    message = ours.hfgen("publish", vae_folder("named"), name).refusal()
    assert message == f"hfgen: error: {name!r} is no name of a repository: pass user/name, or a name in your namespace"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("hf_wrong", "alice/model", "the Hub does not accept the token: log in with `hf auth login`, or set HF_TOKEN"),
        (None, "alice/model", "there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_alice_reads", "alice/model", "the token has no right to do that with alice/model"),
        ("hf_bob", "alice/model", "the token has no right to do that with alice/model: use one with write access"),
    ],
)
def test_tokens_that_may_not(hub, ours, vae_folder, token, repo, message):
    assert message in ours.hfgen("publish", vae_folder("denied"), repo, token=token).refusal()
    assert repo not in hub.repositories


def test_somebody_elses_repository(hub, ours, vae_folder):
    folder = vae_folder("hers")
    ours.hfgen("publish", folder, "alice/hers").check()
    (folder / "note.txt").write_text("by bob")
    message = ours.hfgen("publish", folder, "alice/hers", token="hf_bob").refusal()
    assert "the token has no right to do that with alice/hers" in message
    assert commits(hub, "alice/hers") == 1


def test_folders_that_are_no_pipelines(ours, tmp_path):
    message = ours.hfgen("publish", tmp_path / "nowhere", "alice/nothing").refusal()
    assert f"{tmp_path / 'nowhere'} is no folder: pass that of a pipeline" in message
    message = ours.hfgen("publish", tmp_path, "alice/nothing").refusal()
    assert "is no pipeline that can be loaded, model_index.json missing" in message


def test_what_is_not_the_pipelines_stays_unless_it_is_named(hub, ours, vae_folder, tmp_path):
    folder = vae_folder("cluttered")
    names = [f"{i}.log" for i in range(12)]
    for name in (*names, "wandb/run.log", "backup/checkpoint-4/optimizer.bin", "curves/a.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not yours")
    done = ours.hfgen("publish", folder, "alice/cluttered", "--include", "curves", "--include", "1?.log").check()
    assert remote(hub, "alice/cluttered").keys() == VAE_FILES | {"curves/a.csv", "10.log", "11.log"}
    told = "0.log, 1.log, 2.log, 3.log, 4.log, 5.log, 6.log, 7.log, 8.log, 9.log and 2 more"
    assert f"left here: {told}; name them with --include PATTERN" in done.out


@pytest.mark.parametrize(
    ("name", "text", "include", "message"),
    [
        ("results.txt", "hf_alice", ["results.txt"], "results.txt holds your token for the Hub, and is not pushed"),
        (
            "README.md",
            f"---\nlicense: mit\n---\n\nAKIA{'A7' * 8}\n",
            [],
            "README.md holds what looks like a secret key",
        ),
        ("vae/modeling_hfgen_vae.py", "import torch\n", [], "vae/modeling_hfgen_vae.py differs from this hfgen's"),
        ("link.txt", None, ["*.txt"], "has links to what is not a file in it (link.txt)"),
        ("a.txt", "x", ["b.txt"], "--include b.txt: "),
    ],
)
def test_what_nobody_should_have_is_refused_before_anything_is_made(
    hub, ours, vae_folder, name, text, include, message
):
    folder = vae_folder("private-things")
    if text is None:
        (folder / name).symlink_to(folder.parent)
    else:
        (folder / name).write_text(text)
    hub.requests.clear()
    flags = [word for pattern in include for word in ("--include", pattern)]
    assert message in ours.hfgen("publish", folder, "alice/private-things", *flags).refusal()
    assert hub.requests == []
    assert "alice/private-things" not in hub.repositories


def test_the_title_of_a_generated_card_is_the_repositorys(hub, ours, vae_folder):
    folder = vae_folder("run-17")
    ours.hfgen("publish", folder, "alice/digits-vae").check()
    assert "\n# digits-vae\n" in remote(hub, "alice/digits-vae")["README.md"].decode()
    assert "\n# run-17\n" in (folder / "README.md").read_text()
