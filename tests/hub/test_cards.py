"""Model cards: valid metadata, code that works as printed, the run's true facts, and nothing about its machine."""

import ast
import getpass
import json
import re
import shlex
import shutil
import socket
from dataclasses import replace

import pytest
import torch
import yaml
from diffusers import DDPMScheduler, UNet2DModel
from hub_server import card_errors
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hfgen.cli.parser import parse_training_config
from hfgen.core.errors import HfgenError
from hfgen.families.model import Model
from hfgen.families.registry import get_family
from hfgen.hub.card import MARK, refresh_card, render_card, with_repository
from hfgen.hub.loading import load
from hfgen.hub.publish import publish_folder
from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline
from hfgen.results import BoundTerms, EvaluationResult, TrainingRecord
from hfgen.schedulers import make_sampler
from hfgen.trainer.record import command_line

SAMPLES = {
    "count": 2000,
    "how": "ddim, 50 steps",
    "reference": 1000,
    "features": "digit classifier",
    "classes": {"names": ["0"], "samples": [1.0], "reference": [1.0]},
    "seconds_sampling": 3.5,
    "seconds_measuring": 1.5,
}
# as files of before there was a schema_version
RESULTS = {
    "kind": "VAE",
    "quantity": "log-likelihood of 8-bit pixels",
    "likelihood": "categorical",
    "seconds": 12.5,
    "parameters": 17305,
    "dataset": "mnist",
    "dataset_fingerprint": "950312ff7c9e7d85",
    "split": "test",
    "images": 500,
    "seed": 3,
    "environment": {"device": "1 CPU core", "hfgen": "0.1.0"},
    "samples": SAMPLES,
    "metrics": {
        "vlb_total_bits_per_dim": {
            "name": "bits|dim",
            "mean": 1.234567891,
            "standard_error": 0.01234,
            "unit": "bits/dim",
        },
        "negative_elbo": {"name": "-ELBO", "mean": 98.76543, "standard_error": 0.5, "unit": "nats/image"},
        "fid": {"name": "FID", "mean": 7.25, "unit": ""},
    },
}


@pytest.fixture
def trained(ddpm_training, vae_training, home, tmp_path):
    """A copy of a training's folder, `ddpm` or `vae`, without the files named."""

    def copy(kind, *without):
        folder = shutil.copytree(home / "models" / f"tiny-{kind}", tmp_path / f"tiny-{kind}")
        for name in without:
            (folder / name).unlink()
        return folder

    return copy


def refresh(folder):
    path = refresh_card(load(folder))
    assert path == folder / "README.md"
    return path.read_text()


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def sections(text):
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("results", [None, RESULTS])
@pytest.mark.parametrize("without", [(), ("training.json",)])
@pytest.mark.parametrize("kind", ["ddpm", "vae"])
def test_a_card_is_valid_and_has_what_its_folder_has(trained, kind, without, results):
    folder = trained(kind, "README.md", *without)
    if results:
        (folder / "results.json").write_text(json.dumps(results))
    text = refresh(folder)
    data = metadata(text)
    assert card_errors(text) == []
    assert (data["license"], data["library_name"]) == ("apache-2.0", "diffusers")
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert {"diffusers", "hfgen", kind} <= set(data["tags"])
    assert "datasets" not in data  # the training's were a local folder
    assert ("model-index" in data) == (results is not None)
    told = {"Results": results, "Pictures": kind == "vae", "Training": not without}
    assert sections(text) == ["Use", *(name for name, there in told.items() if there), "Limits"]
    named = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert all((folder / name).is_file() for name in named)
    kept = {"training_images.png", *(["loss.png"] if without else [])}
    assert set(named) == {path.name for path in folder.glob("*.png")} - kept
    assert re.search(r"[\d,]+ parameters", text)
    assert "{{" not in text
    assert "{%" not in text
    assert "\n\n\n" not in text


def test_measured_results_can_be_read_back(trained):
    folder = trained("ddpm")
    (folder / "results.json").write_text(json.dumps(RESULTS))
    text = refresh(folder)
    read = {result.metric_type: result for result in ModelCard(text).data.eval_results}
    assert read.keys() == RESULTS["metrics"].keys()
    for key, metric in RESULTS["metrics"].items():
        assert read[key].metric_value == pytest.approx(metric["mean"], abs=1e-4)
        assert read[key].metric_name == f"{metric['name']}, {metric['unit']}".rstrip(", ")
        # the name of a local folder is that of no dataset of the Hub
        assert (read[key].dataset_name, read[key].dataset_type, read[key].dataset_split) == ("mnist", "unknown", "test")
        assert read[key].task_type == "unconditional-image-generation"
    assert ModelCard(text).data.model_name == "tiny-ddpm"
    assert "| bits\\|dim | 1.235 ± 0.012 bits/dim |\n| -ELBO | 98.77 ± 0.50 nats/image |\n| FID | 7.250 |\n" in text
    assert "500 images of mnist (split test), seed 3" in text


def test_results_of_samples_alone(trained):
    folder = trained("ddpm")
    results = {key: value for key, value in RESULTS.items() if key not in ("quantity", "likelihood", "seconds")}
    results["metrics"] = {"fid": RESULTS["metrics"]["fid"]}
    (folder / "results.json").write_text(json.dumps(results))
    text = refresh(folder)
    assert "Samples: 2,000 (ddim, 50 steps) against 1,000 images." in text
    assert "| measured | |\n|---|---|\n| FID | 7.250 |\n\n[results.json]" in text
    assert "±" not in text


@pytest.mark.parametrize(
    ("dataset", "listed"),
    [
        ("ylecun/mnist", ["ylecun/mnist"]),
        ("moving:ylecun/mnist", ["ylecun/mnist"]),
        ("digits", None),
        ("moving:digits", None),
        (None, None),
    ],
)
def test_only_datasets_of_the_hub_are_in_the_metadata(trained, dataset, listed):
    folder = trained("ddpm")
    training = json.loads((folder / "training.json").read_text()) | {"dataset": dataset}
    (folder / "training.json").write_text(json.dumps(training))
    text = refresh(folder)
    assert metadata(text).get("datasets") == listed
    assert card_errors(text) == []


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_code_of_few_steps_runs_where_a_solver_can_sample(tmp_path, monkeypatch, schedule, variance):
    torch.manual_seed(0)
    learned = variance == "learned_range"
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1 + learned,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
    )
    scheduler = DDPMScheduler(100, beta_schedule=schedule, variance_type=variance)
    UnconditionalDiffusionPipeline(unet, scheduler).save_pretrained(tmp_path / "model")
    text = refresh(tmp_path / "model")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == (1 if learned else 2)  # stock pipelines hand a solver both halves of a learned variance
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(block, names)
        assert len(names["images"]) == 16
    if not learned:
        config = make_sampler("sde-dpmsolver++", scheduler).config
        used = names["pipeline"].scheduler.config
        keys = ("timestep_spacing", "algorithm_type", "solver_type", "lambda_min_clipped", "beta_schedule")
        assert {key: used[key] for key in keys} == {key: config[key] for key in keys}


def test_a_card_tells_the_run(trained):
    text = refresh(trained("ddpm"))
    assert "17,305 parameters, T = 25, cosine schedule, v prediction" in text
    assert "36 images of a local dataset (split train), 2 epochs, 4 steps of 18 images" in text
    assert (
        "the moving average of the weights. Held-out squared error of v, weighting simple, per pixel at the end: "
        in text
    )
    assert "4 taken from 'train'" in text
    assert re.search(
        r"\d+ seconds \(\d+ seconds of CPU time\) on .*1 thread; hfgen .*, PyTorch .*, diffusers .*, accelerate ", text
    )
    assert "have not been measured" in text
    assert "36 training images are few" in text
    text = refresh(trained("vae"))
    assert "8x8 grey images: MLPVAE, 2 latents, 2,244 parameters, Bernoulli likelihood" in text


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("ddpm", ["--ddpm_num_steps=50", "--ddpm_num_inference_steps=30", "--use_ema=False"]),
        ("ddpm", ["--dataset_name=digits", "--max_grad_norm=0", "--learning_rate=3e-05", "--seed=7"]),
        ("vae", ["--objective=iw", "--random_flip", "--latent_bound=0", "--image_column=my image"]),
        ("vae", ["--dataset_config_name=it's", "--validation_split=a b", "--label_column=$HOME"]),
    ],
)
def test_the_command_on_a_card_is_the_runs(family, words):
    config = parse_training_config(family, [*words, "--output_dir=here"])
    launcher, script, flags = command_line(config).partition(config.script)
    assert (launcher, script) == ("accelerate launch --quiet ", config.script)
    assert parse_training_config(family, shlex.split(flags)) == config


def code(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def remote_card(hub, repo):
    return hub.repositories[repo].files()["README.md"].decode()


@pytest.mark.parametrize("kind", ["ddpm", "vae", "long"])
def test_the_code_on_a_card_works_as_printed(hub, ours, stranger, trained, ddpm_folder, tmp_path, kind):
    folder = ddpm_folder("long", T=100) if kind == "long" else trained(kind)
    ours.hfgen("publish", folder, f"alice/card-{kind}").check()
    text = remote_card(hub, f"alice/card-{kind}")
    blocks = code(text, "python")
    assert len(blocks) == (2 if kind == "long" else 1)
    assert ("trust_remote_code" in text) == (kind == "vae")
    if kind != "vae":
        assert f"num_inference_steps={100 if kind == 'long' else 25})" in blocks[0]
    stranger.forget()
    (tmp_path / "work").mkdir()
    look = "answer['images'] = [image.size for image in images]"
    program = "\n".join(["import os; os.chdir(arguments[0])", *blocks, look])
    drawn = stranger.run(program, tmp_path / "work", token=None).check()
    assert drawn.answer["images"] == [[8, 8]] * 16
    assert (tmp_path / "work" / "sample.png").is_file()
    commands = [shlex.split(line) for line in "".join(code(text, "sh")).splitlines() if line.startswith("hfgen ")]
    assert commands == [["hfgen", "sample", f"alice/card-{kind}", "--out", "samples.png"]]
    ours.forget()
    ours.run("import os; os.chdir(arguments[0])\n" + COMMAND, tmp_path / "work", *commands[0][1:], token=None).check()
    assert (tmp_path / "work" / "samples.png").is_file()


COMMAND = "from hfgen.cli.main import main\nraise SystemExit(main(arguments[1:]))"


def test_hfgens_class_on_the_card_of_a_vae_loads_it(hub, ours, trained):
    ours.hfgen("publish", trained("vae"), "alice/card-class").check()
    (call,) = re.findall(r"`(VAEPipeline\.from_pretrained\([^)]*\))`", remote_card(hub, "alice/card-class"))
    ours.run(f"from hfgen.pipelines import VAEPipeline\n{call}", token=None).check()


def test_nothing_tells_of_the_machine_or_its_user(hub, ours, trained, home, tmp_path):
    names = [str(home), "SECRETUSER", str(tmp_path), "SECRETTOKEN", socket.gethostname(), getpass.getuser()]
    # such as root or vm: words that have every right to be there
    names = [name for name in names if len(name) > 4 or name.isupper()]
    vae, ddpm = trained("vae"), trained("ddpm")
    images = ["--dataset_name", home / "my photos", "--split", "train"]
    ours.hfgen("evaluate", vae, *images, "--iw_samples", 3, "--out", vae / "results.json").check()
    ours.hfgen("evaluate", ddpm, *images, "--evaluations", 1000, "--out", ddpm / "results.json").check()
    for folder in (vae, ddpm):
        ours.hfgen("card", folder).check()
        ours.hfgen("publish", folder, f"alice/silent-{folder.name}").check()
        pushed = hub.repositories[f"alice/silent-{folder.name}"].files()
        assert {"README.md", "training.json", "results.json", "model_index.json", "samples.png"} <= pushed.keys()
        for name, content in [("README.md at home", (folder / "README.md").read_bytes()), *pushed.items()]:
            assert not [secret for secret in names if secret.encode() in content], name
            if name.endswith((".json", ".md")):
                assert not re.search(rb"[\s\"'(=]/\w+/", content), f"an absolute path in {name}"
        text = pushed["README.md"].decode()
        assert card_errors(text) == []
        assert "model-index" in metadata(text)
        assert "cache" not in text


def test_a_card_by_hand_keeps_its_text_and_gets_the_results(trained):
    folder = trained("ddpm")
    head = "license: mit\ntags:\n- mine\nwidget:\n- text: a seven\n"
    body = "\n# By hand\n\nA text of mine, with `model-index` and\n\n---\n\na line.\n"
    path = folder / "README.md"
    path.write_text(f"---\n{head}---\n{body}")
    assert refresh(folder) == f"---\n{head}---\n{body}"
    (folder / "results.json").write_text(json.dumps(RESULTS))
    text = refresh(folder)
    assert text.endswith(body)
    data = metadata(text)
    assert [m["value"] for m in data.pop("model-index")[0]["results"][0]["metrics"]] == [1.2346, 98.7654, 7.25]
    assert data == yaml.safe_load(head)
    assert card_errors(text) == []
    assert refresh(folder) == text
    path.write_text(text.replace("license: mit", "license: mit  # as agreed"))
    assert "# as agreed" in refresh(folder)
    changed = json.loads(json.dumps(RESULTS))
    changed["metrics"]["fid"]["mean"] = 6.5
    (folder / "results.json").write_text(json.dumps(changed))
    again = refresh(folder)
    assert [r.metric_value for r in ModelCard(again).data.eval_results] == [1.2346, 98.7654, 6.5]
    assert again.replace("6.5", "7.25") == text  # a comment in the metadata lasts as long as nothing changes


def test_a_card_by_hand_without_metadata_keeps_its_text(trained):
    folder = trained("ddpm")
    (folder / "README.md").write_text("# By hand\n\nNothing more.\n")
    assert refresh(folder) == "# By hand\n\nNothing more.\n"
    (folder / "results.json").write_text(json.dumps(RESULTS))
    text = refresh(folder)
    assert text.endswith("# By hand\n\nNothing more.\n")
    assert len(ModelCard(text).data.eval_results) == 3


def test_a_generated_card_is_written_anew_and_keeps_its_license(trained):
    folder = trained("vae")
    path = folder / "README.md"
    assert MARK in path.read_text()
    before = path.read_text()
    path.write_text(before.replace("license: apache-2.0", "license: mit").replace("# tiny-vae", "# Something else"))
    text = refresh(folder)
    assert text == before.replace("license: apache-2.0", "license: mit")
    (folder / "results.json").write_text(json.dumps(RESULTS))
    assert metadata(refresh(folder))["license"] == "mit"
    assert "Results" in sections(path.read_text())
    path.write_text(path.read_text().replace(MARK, ""))
    mine = path.read_text()
    (folder / "samples.png").unlink()
    assert refresh(folder) == mine


def test_files_that_cannot_be_read_are_named(trained):
    folder = trained("ddpm")
    for name, text, message in (
        ("training.json", "{", "training.json cannot be read"),
        ("results.json", "[", "results.json cannot be read"),
        ("README.md", "---\nlicense: [\n---\n", "README.md is no valid model card"),
    ):
        before = (folder / name).read_text() if (folder / name).is_file() else None
        (folder / name).write_text(text)
        with pytest.raises(HfgenError, match=message) as error:
            refresh(folder)
        assert "\n" not in str(error.value)
        (folder / name).write_text(before) if before else (folder / name).unlink()


def test_a_folder_is_checked_before_its_card_is_written(tmp_path):
    with pytest.raises(HfgenError, match=r"model_index\.json missing"):
        publish_folder(tmp_path, "alice/none")
    assert not list(tmp_path.iterdir())


TRAINING = {
    "command": "accelerate launch --quiet training/train_vae.py --output_dir vae",
    "dataset": "digits",
    "train_split": "train",
    "images": 1617,
    "image_shape": [1, 8, 8],
    "held_out": "180 taken from 'train'",
    "steps": 100,
    "epochs": 1.0,
    "batch_size": 16,
    "learning_rate": 0.001,
    "averaged_weights": True,
    "loss": "negative bound, nats per image",
    "held_out_loss": 20.5,
    "seconds": 10.0,
    "processes": 1,
    "mixed_precision": "no",
    "environment": {"device": "1 CPU core", "hfgen": "0.1.0", "torch": "2", "diffusers": "0", "accelerate": "1"},
}


def test_a_model_that_was_never_saved_has_a_card():
    pipeline = VAEPipeline(MLPVAE(sample_size=8, latent_size=3, hidden_sizes=(16,)))
    model = Model(family=get_family("vae"), pipeline=pipeline, name="to-be")
    text = str(render_card(model, training=TrainingRecord.from_json(TRAINING)))
    assert card_errors(text) == []
    assert sections(text) == ["Use", "Training", "Limits"]
    assert 'from_pretrained("to-be", trust_remote_code=True)' in text
    with pytest.raises(HfgenError, match="to-be has no folder for its card"):
        refresh_card(model)


EVIL = "x\n\n## Owned\n```\n<script>alert(1)</script> [click](http://evil) `code` **bold** _it_ | cell"


def test_text_of_the_files_stays_text(vae_folder):
    folder = vae_folder("text")
    results, training = json.loads(json.dumps(RESULTS)), dict(TRAINING)
    plain = refresh_with(folder, results, training, "plain")
    evil = refresh_with(folder, results, training, EVIL)
    assert card_errors(evil) == []
    assert shape(evil) == shape(plain)
    assert "alert(1)" in evil


def refresh_with(folder, results, training, text):
    """The card with that text wherever a file of JSON has one."""
    results = results | {"dataset": text, "split": text, "quantity": text}
    results["samples"] = SAMPLES | {"how": text}
    results["metrics"] = {key: metric | {"name": text} for key, metric in results["metrics"].items()}
    training = training | dict.fromkeys(("command", "train_split", "held_out", "loss", "mixed_precision"), text)
    training |= {"dataset": f"a/{text}", "environment": dict.fromkeys(TRAINING["environment"], text)}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "training.json").write_text(json.dumps(training))
    return refresh(folder)


def shape(text):
    """The elements of a card's Markdown, by a parser of CommonMark and tables."""
    tokens = MarkdownIt().enable("table").parse(text.split("---\n", 2)[2])
    flat = [part for token in tokens for part in [token, *(token.children or [])]]
    return [token.type for token in flat if token.type != "text"]


@pytest.mark.parametrize("name", ['a"b', "it's", "a b", "$(touch x)", "back`tick", "a\\b", "<b>", "ünï"])
def test_a_folder_of_any_name(vae_folder, tmp_path, monkeypatch, name):
    folder = vae_folder("named").rename(tmp_path / name)
    text = refresh(folder)
    assert card_errors(text) == []
    (words,) = [shlex.split(line) for line in code(text, "sh")[0].splitlines()]
    assert words == ["hfgen", "sample", name, "--out", "samples.png"]
    named = re.findall(r'from_pretrained\(("(?:[^"\\]|\\.)*")', text)
    assert [ast.literal_eval(literal) for literal in named] == [name, name]
    pushed = with_repository(text, name, "alice/model")
    assert name not in pushed.replace(f"# {name}", "")
    assert pushed.count("alice/model") == 3
    assert "\n# model\n" in pushed


# -- results of the model, and of no other


def part_of(key, digest, **values):
    """A file of results with one part, of this version."""
    results = EvaluationResult.from_json(RESULTS)
    other = {"likelihood": "samples", "samples": "likelihood"}[key]
    return replace(results, **{other: None, "model_digest": digest, **values})


def test_parts_that_were_measured_on_different_images_tell_their_own(trained):
    folder = trained("ddpm")
    digest = load(folder).digest()
    likelihood = part_of("likelihood", digest)
    merged = part_of("samples", digest, dataset="user/photos", split="held_out", images=77, seed=9).with_earlier(
        likelihood
    )
    merged.save(folder / "results.json")
    text = refresh(folder)
    assert (
        "Likelihood: 500 images of mnist (split test), seed 3. Samples: 2,000 (ddim, 50 steps) against 1,000 images of "
        in text
    )
    assert "images of user/photos (split held_out), seed 9." in text
    told = {r["dataset"]["name"]: r for r in metadata(text)["model-index"][0]["results"]}
    assert {name: r["dataset"]["type"] for name, r in told.items()} == {
        "mnist": "unknown",
        "user/photos": "user/photos",
    }
    assert [m["type"] for m in told["user/photos"]["metrics"]] == ["fid"]


@pytest.mark.parametrize("digest", ["0" * 32, None])
def test_results_of_other_weights_are_not_on_the_card(trained, capsys, digest):
    """Of a training that another one has overwritten; old files do not tell their weights, and are believed but after a training."""
    folder = trained("ddpm")
    before = refresh(folder)
    for name in ("results_terms.png", "results_real.png", "results_neighbours.png", "results_samples.png"):
        shutil.copy(folder / "samples.png", folder / name)
    part_of("likelihood", digest).save(folder / "results.json")
    card = refresh_card(load(folder), after_training=True)
    assert card.read_text() == before
    told = f"{folder / 'results.json'} is of other weights or configs, the card leaves it out: measure again"
    assert told in capsys.readouterr().err
    assert (refresh(folder) == before) == (digest is not None)
    part_of("likelihood", load(folder).digest()).save(folder / "results.json")
    assert "model-index" in metadata(refresh_card(load(folder), after_training=True).read_text())


def test_pictures_of_results_are_shown_with_the_part_that_they_are_of(trained):
    folder = trained("ddpm")
    digest, names = load(folder).digest(), ("results_terms", "results_real", "results_neighbours", "results_samples")
    for name in names:
        shutil.copy(folder / "samples.png", folder / f"{name}.png")
    (folder / "samples.png").unlink()

    def shown(result):
        result.save(folder / "results.json")
        return [name for name in names if f"({name}.png)" in refresh(folder)]

    likelihood, samples = (part_of(key, digest) for key in ("likelihood", "samples"))
    assert shown(likelihood) == []
    terms = replace(likelihood.likelihood, terms=BoundTerms(mean=(1.0,), standard_error=(0.1,), draws=(5,)))
    assert shown(replace(likelihood, likelihood=terms)) == ["results_terms"]
    assert shown(samples) == ["results_samples"]  # of before neighbours were sought
    found = replace(samples.samples, training_images=1234)
    assert shown(replace(samples, samples=found)) == ["results_real", "results_neighbours", "results_samples"]
    text = (folder / "README.md").read_text()
    assert "nearest to it in pixels (Euclidean distance), of 1,234." in text
    assert text.index("results_samples.png") < text.index("## Use")


# -- data of one's own


def test_a_card_of_own_data_has_the_repositorys_name_and_no_false_dataset(hub, ours, trained):
    folder = trained("ddpm")
    part_of("likelihood", load(folder).digest(), dataset="my photos").save(folder / "results.json")
    ours.hfgen("publish", folder, "alice/sea-and-sky").check()
    text = remote_card(hub, "alice/sea-and-sky")
    assert "\n# sea-and-sky\n" in text
    assert "tiny-ddpm" not in text.replace("--output_dir tiny-ddpm", "")
    data = metadata(text)
    assert data["model-index"][0]["name"] == "sea-and-sky"
    assert {r["dataset"]["type"] for r in data["model-index"][0]["results"]} == {"unknown"}
    assert "datasets" not in data
    assert card_errors(text) == []


def test_the_command_of_own_data_has_words_that_say_what_to_put(tmp_path):
    for name in ("photos", "data", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "unet.json").write_text("{}")
    words = [
        f"--train_data_dir={tmp_path / 'photos'}",
        f"--dataset_name={tmp_path / 'data'}",
        f"--model_config_name_or_path={tmp_path / 'unet.json'}",
        f"--output_dir={tmp_path / 'model'}",
    ]
    command = command_line(parse_training_config("ddpm", words))
    assert "--train_data_dir FOLDER_OF_IMAGES " in command
    assert "--dataset_name FOLDER_OF_A_DATASET " in command
    assert "--model_config_name_or_path CONFIG.json " in command
    assert command.endswith("--output_dir model")
    assert str(tmp_path) not in command
    shown = command_line(parse_training_config("ddpm", ["--dataset_name=user/photos", "--output_dir=x"]))
    assert "--dataset_name user/photos " in shown
