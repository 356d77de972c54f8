"""The trainers' --push_to_hub: checked before the training, done after it, and a Hub that fails costs no training."""

import re
import shlex

import pytest
from hub_users import WORKER

TOKEN = "hf_SECRETTOKEN"
SCRIPTS = {kind: WORKER.parents[2] / "training" / f"train_{kind}.py" for kind in ("ddpm", "vae")}


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_training_is_pushed_in_one_commit_to_a_private_repository(hub, ddpm_training, home):
    repository = hub.repositories["alice/pushed-ddpm"]
    assert repository.private
    assert len(repository.branches["main"]) == 2
    sha = repository.resolve("main")
    assert ddpm_training.check().out.splitlines()[-1] == f"pushed: {hub.url}/alice/pushed-ddpm/commit/{sha}"
    assert set(repository.files()) == {
        ".gitattributes",
        "README.md",
        "loss.png",
        "model_index.json",
        "samples.png",
        "scheduler/scheduler_config.json",
        "training.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert "checkpoint-4/trainer_state.json" in names(home / "models" / "tiny-ddpm")


def test_a_hub_that_fails_in_the_end_costs_no_training(hub, ours, vae_training, home):
    out = home / "models" / "tiny-vae"
    message = vae_training.err.splitlines()[-1]
    assert vae_training.status == 1
    told = f"train_vae.py: error: the training is complete in {out}, but it was not pushed: the Hub failed"
    assert message.startswith(told)
    assert "Traceback" not in vae_training.err
    assert names(out) >= {
        "README.md",
        "loss.png",
        "model_index.json",
        "pipeline_hfgen_vae.py",
        "samples.png",
        "training.json",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/modeling_hfgen_vae.py",
    }
    assert set(hub.repositories["alice/tiny-vae"].files()) == {".gitattributes"}
    (command,) = re.findall(r"`(hfgen publish [^`]*)`", message)
    ours.hfgen(*shlex.split(command)[1:]).check()
    assert len(hub.repositories["alice/tiny-vae"].branches["main"]) == 2
    assert names(out) - set(hub.repositories["alice/tiny-vae"].files()) == {
        name
        for name in names(out)
        if name.startswith((".hfgen/", "checkpoint-", "logs/", "samples/", "history.jsonl", "training_images.png"))
    }


def test_the_command_for_later_makes_the_repository_private(hub, ours, flags, tmp_path):
    fault = hub.fail("POST", "/api/repos/create", status=507)
    words = flags(output_dir=tmp_path / "later vae", max_train_steps=1, save_images_epochs=0, logger="none")
    words += ["--push_to_hub", "--hub_private_repo", "--hub_model_id=alice/later"]
    done = ours.script(SCRIPTS["vae"], *words)
    hub.faults.remove(fault)
    assert done.status == 1
    assert "alice/later" not in hub.repositories
    (command,) = re.findall(r"`(hfgen publish [^`]*)`", done.err.splitlines()[-1])
    ours.hfgen(*shlex.split(command)[1:]).check()
    assert hub.repositories["alice/later"].private
    assert len(hub.repositories["alice/later"].branches["main"]) == 2


def test_the_token_is_nowhere(ddpm_training, vae_training, home):
    for done in (ddpm_training, vae_training):
        assert TOKEN not in done.out + done.err
    paths = [path for path in (home / "models").rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in paths)
    assert any("checkpoint-" in path.as_posix() for path in paths)
    for path in paths:
        assert TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (["--push_to_hub"], "hf_wrong", "the Hub does not accept the token: log in with `hf auth login`"),
        (["--push_to_hub", "--hub_token=hf_wrong"], "hf_alice", "the Hub does not accept the token"),
        (["--push_to_hub"], None, "there is no token for the Hub: log in with `hf auth login`"),
        (["--push_to_hub", "--hub_model_id=a b"], "hf_alice", "'a b' is no name of a repository"),
        (["--push_to_hub", "--hub_model_id=bob/x"], "hf_alice", "the token has no right to do that with bob/x"),
        (["--push_to_hub", "--hub_model_id=x"], "hf_alice_reads", "the token has no right to do that with alice/x"),
        (["--hub_model_id=alice/x"], "hf_alice", "hub_model_id without push_to_hub pushes nothing: pass --push_to_hub"),
        (["--hub_private_repo", f"--hub_token={TOKEN}"], "hf_alice", "hub_token, hub_private_repo without push_to_hub"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_the_training(ours, flags, home, tmp_path, kind, words, token, message):
    out = tmp_path / kind
    refusal = ours.script(SCRIPTS[kind], *flags(output_dir=out), *words, token=token).refusal()
    assert refusal.startswith(f"train_{kind}.py: error: ")
    assert message in refusal
    assert "push_to_hub" in refusal
    assert TOKEN not in refusal
    assert not out.exists()


def test_a_hub_that_does_not_answer_is_told_before_the_training(hub, ours, flags, tmp_path):
    hub.fail("GET", "/api/whoami-v2")
    refusal = ours.script(SCRIPTS["ddpm"], *flags(output_dir=tmp_path / "out"), "--push_to_hub").refusal()
    assert "push_to_hub: the Hub failed for out (" in refusal
    assert not (tmp_path / "out").exists()
