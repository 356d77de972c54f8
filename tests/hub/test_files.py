"""What of a folder belongs to its repository: the pipeline, its card and what the user names; no key of anybody's."""

import json
from pathlib import Path

import pytest

from hfgen.core.errors import HfgenError
from hfgen.hub.card import refresh_card
from hfgen.hub.files import check_secrets, repository_files
from hfgen.hub.loading import load

DDPM_FILES = {
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}
VAE_FILES = {
    "README.md",
    "model_index.json",
    "pipeline_hfgen_vae.py",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/modeling_hfgen_vae.py",
}
STRAY = [
    "token.txt",
    "nohup.out",
    "notes.png",
    "LICENSE",
    "helper.py",
    "wandb/latest/run.log",
    "backup/checkpoint-4/model.safetensors",
    "backup/checkpoint-4/optimizer.bin",
    "checkpoint-8/random_states_0.pkl",
    "unet/old/diffusion_pytorch_model.safetensors",
    "unet/notes.txt",
    "unet/helper.py",
    "scheduler/data.json",
    ".env",
    "unet/.cache/token",
]


def put(folder, *names, text="x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files(folder, *include):
    model = load(folder)
    refresh_card(model)
    found = repository_files(folder, model, include)
    return {path.as_posix() for path in found.pushed}, found.left


def refusal(folder, *include):
    with pytest.raises(HfgenError) as error:
        files(folder, *include)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_belongs_to_the_pipeline_and_what_stays(ddpm_folder):
    folder = ddpm_folder("model")
    put(folder, *STRAY)
    assert files(folder) == (
        DDPM_FILES,
        [
            "LICENSE",
            "backup/",
            "checkpoint-8/",
            "helper.py",
            "nohup.out",
            "notes.png",
            "scheduler/data.json",
            "token.txt",
            "unet/helper.py",
            "unet/notes.txt",
            "unet/old/",
            "wandb/",
        ],
    )


def test_sharded_weights_and_a_tokenizer_belong_to_it(ddpm_folder):
    folder = ddpm_folder("model")
    parts = [f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    extra = [*parts, "unet/diffusion_pytorch_model.safetensors.index.json", "scheduler/tokenizer_config.json"]
    model = load(folder)
    put(folder, *extra)
    assert {path.as_posix() for path in repository_files(folder, model).pushed} == (DDPM_FILES - {"README.md"}) | set(
        extra
    )


def test_figures_and_what_the_card_links_to_belong_to_it(vae_folder):
    folder = vae_folder("model")
    figures = {"samples.png", "loss.png", "manifold.png", "latents.png"}
    put(folder, *figures, "results_terms.png", "other.png", "curves.html", "two words.csv", "samples/step-4.png")
    pushed, left = files(folder)
    assert pushed == VAE_FILES | figures
    (folder / "README.md").write_text(
        '# Mine\n\n![a](./other.png) [b](<curves.html>) <img src="samples/step-4.png"> [c](two%20words.csv) [d](https://a/b)\n'
    )
    pushed, left = files(folder)
    assert pushed == VAE_FILES | figures | {"other.png", "curves.html", "two words.csv", "samples/step-4.png"}
    assert left == ["results_terms.png"]


@pytest.mark.parametrize(
    ("include", "named"),
    [
        (["token.txt"], {"token.txt"}),
        (["wandb"], {"wandb/latest/run.log"}),
        (["./wandb/"], {"wandb/latest/run.log"}),
        (["*.out", "unet/*.txt"], {"nohup.out", "unet/notes.txt"}),
        (["helper.py", "scheduler"], {"helper.py", "scheduler/data.json"}),
    ],
)
def test_what_the_user_names(ddpm_folder, include, named):
    folder = ddpm_folder("model")
    put(folder, *STRAY)
    assert files(folder, *include)[0] == DDPM_FILES | named


@pytest.mark.parametrize("pattern", ["nothing.txt", ".env", "unet/.cache", "../model"])
def test_a_pattern_of_nothing(ddpm_folder, pattern):
    folder = ddpm_folder("model")
    put(folder, *STRAY)
    assert f"--include {pattern}: {folder} has no such file that is not hidden" in refusal(folder, pattern)


def test_pickles_that_are_named_are_refused(ddpm_folder):
    folder = ddpm_folder("model")
    put(folder, *STRAY)
    assert "weights that are not safetensors (backup/checkpoint-4/optimizer.bin)" in refusal(folder, "backup")


@pytest.mark.parametrize(
    "name",
    ["samples.png", "unet/diffusion_pytorch_model.safetensors", "unet/config.json", "unet", "scheduler", "notes.txt"],
)
@pytest.mark.parametrize("relative", [True, False])
def test_links_out_of_the_folder_are_refused(ddpm_folder, tmp_path, name, relative):
    folder, outside = ddpm_folder("model"), tmp_path / "outside"
    outside.mkdir()
    if (folder / name).exists():
        (folder / name).rename(outside / "it")
    else:
        (outside / "it").write_text("a secret")
    up = Path(*[".."] * len(Path(name).parts))
    (folder / name).symlink_to(up / "outside" / "it" if relative else outside / "it")
    include = ["notes.txt"] if name == "notes.txt" else []
    assert f"{folder} has links to what is not a file in it ({name})" in refusal(folder, *include)


def test_links_within_the_folder_and_those_that_stay_are_fine(ddpm_folder, tmp_path):
    folder = ddpm_folder("model")
    (tmp_path / "secret").write_text("a secret")
    put(folder, "last.png")
    (folder / "samples.png").symlink_to("last.png")
    (folder / "data").symlink_to(tmp_path)
    (folder / "mine.txt").symlink_to(tmp_path / "secret")
    pushed, left = files(folder)
    assert pushed == DDPM_FILES | {"samples.png"}
    assert left == ["data", "last.png", "mine.txt"]


@pytest.mark.parametrize("name", ["pipeline_hfgen_vae.py", "vae/modeling_hfgen_vae.py"])
def test_code_that_is_not_hfgens_is_pushed_only_by_name(vae_folder, name):
    folder = vae_folder("altered")
    with (folder / name).open("a") as file:
        file.write("\nimport os\n")
    assert f"{name} differs from this hfgen's, and whoever trusts the repository runs it" in refusal(folder)
    assert refusal(folder).endswith(f"--include {name}")
    assert files(folder, name)[0] == VAE_FILES


KEYS = [
    "hf_" + "aB3" * 12,
    "AKIA" + "ABCD1234" * 2,
    "ghp_" + "aB3" * 12,
    "github_pat_" + "aB3_" * 12,
    "sk-" + "aB3-" * 12,
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("around", ["{}", "key={}\n", '{{"token": "{}"}}', "\x00{}\x00"])
def test_keys_are_refused(tmp_path, key, around):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("words\n" * 1000 + around.format(key))
    with pytest.raises(HfgenError, match=r"^a/b\.txt holds what looks like a secret key") as error:
        check_secrets(tmp_path, [Path("a/b.txt")], [])
    assert key not in str(error.value)


def test_words_that_only_begin_like_keys_are_none(tmp_path):
    (tmp_path / "a.md").write_text(
        "hf_hub_download task-conditioned-diffusion-models-of-digits sk-learn ghp_ AKIA -----BEGIN CERTIFICATE-----\n"
    )
    (tmp_path / "empty").write_text("")
    check_secrets(tmp_path, [Path("a.md"), Path("empty")], [None, "", "hf_another"])


def test_the_token_in_use_is_refused_whatever_it_looks_like(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"command": "train --hub_token=mine7"}))
    with pytest.raises(HfgenError, match=r"^training\.json holds your token for the Hub"):
        check_secrets(tmp_path, [Path("training.json")], [None, "mine7"])


def test_metadata_of_weights_are_searched_and_numbers_are_not(tmp_path):
    header = json.dumps({"__metadata__": {"note": "x"}}).encode()
    numbers = KEYS[0].encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + numbers)
    check_secrets(tmp_path, [Path("a.safetensors")], [])
    header = json.dumps({"__metadata__": {"note": KEYS[0]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(HfgenError, match="secret key"):
        check_secrets(tmp_path, [Path("a.safetensors")], [])
