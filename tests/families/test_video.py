"""Models of clips: motion in a text-to-image model of random weights, trained for a few steps on digits that move."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import DatasetDict
from diffusers import AnimateDiffPipeline, DDIMScheduler, DiffusionPipeline, MotionAdapter, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from video_repositories import text_to_image

import hfgen
from hfgen.cli.main import main
from hfgen.core.errors import HfgenError
from hfgen.data.digits import embedded_digits
from hfgen.families.video.flags import VideoSampling
from hfgen.families.video.motion import motion_adapter, motion_unet, without_motion
from hfgen.families.video.sampler import VideoSampler, clip_noise

FRAMES, SHARE = 4, 0.5
FLAGS = {
    "validation_split": "test",
    "num_frames": FRAMES,
    "shared_noise": SHARE,
    "motion_max_seq_length": 6,
    "num_inference_steps": 2,
    "train_batch_size": 8,
    "eval_batch_size": 100,
    "max_train_steps": 3,
    "lr_warmup_steps": 0,
    "learning_rate": 1e-2,
    "use_ema": False,
    "save_images_epochs": 0,
    "logger": "none",
}
TWO, THREE = "a picture of two", "a picture of three"
STRANGER = """
import sys, torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
latents = torch.load(sys.argv[2])
frames = pipeline("a picture of two", num_frames=4, num_inference_steps=2, latents=latents, output_type="pt").frames
torch.save(frames, sys.argv[2])
assert "hfgen" not in sys.modules
print(type(pipeline).__name__, type(pipeline.scheduler).__name__, tuple(frames.shape))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    text_to_image().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """16 digits to train on and 12 held out."""
    folder = tmp_path_factory.mktemp("few")
    digits = embedded_digits()
    parts = {"train": digits["train"].select(range(16)), "test": digits["test"].select(range(12))}
    DatasetDict(parts).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def trained(base, few, tmp_path_factory):
    return train(tmp_path_factory.mktemp("video") / "moving", few, pretrained_model_name_or_path=base)


def train(out, few, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return hfgen.train("video", dataset_name=f"moving:{few}", output_dir=out, **{**FLAGS, **changes}).output_dir


@pytest.fixture(scope="module")
def model(trained):
    return hfgen.load(trained, device="cpu")


def generators(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


# -- the network


@torch.no_grad()
def test_before_the_training_each_frame_is_what_the_unet_of_images_makes_of_it():
    """Two classes of diffusers on the same input."""
    unet = text_to_image().unet
    moving = motion_unet(unet, positions=8, heads=2)
    x, words = torch.randn(2, 4, 5, 8, 8), torch.randn(2, 7, 8)
    t = torch.tensor([3, 900])
    found = moving(x, t, encoder_hidden_states=words.repeat_interleave(5, 0)).sample
    for frame in range(5):
        expected = unet(x[:, :, frame], t, encoder_hidden_states=words).sample
        # float32 sums of some hundred terms in another order
        assert torch.allclose(found[:, :, frame], expected, atol=1e-5)


def test_heads_must_divide_the_channels():
    with pytest.raises(HfgenError, match="motion_num_attention_heads=3 does not divide the 8 channels"):
        motion_unet(text_to_image().unet, positions=8, heads=3)


def test_the_training_moves_the_motion_modules_alone(base, trained):
    before = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    adapter = MotionAdapter.from_pretrained(trained, subfolder="motion_adapter").state_dict()
    merged = DiffusionPipeline.from_pretrained(trained).unet.state_dict()
    assert merged.keys() == before.keys() | adapter.keys()
    assert all(torch.equal(merged[name], before[name]) for name in before)
    assert all(torch.equal(merged[name], adapter[name]) for name in adapter)
    assert all(
        value.abs().max() > 0 for name, value in adapter.items() if ".proj_out.weight" in name
    )  # they began as 0


def test_the_motion_modules_lie_in_the_repository_once(base, trained):
    index = json.loads((trained / "model_index.json").read_text())
    assert index["_class_name"] == "AnimateDiffPipeline"
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    saved, given = (
        (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() for folder in (trained, base)
    )
    assert saved == given


# -- the repository


@pytest.mark.slow
def test_a_stranger_loads_it_and_draws_the_same(model, trained, stranger, tmp_path):
    """hfgen's first clip is what stock diffusers draws from the noise that hfgen draws it from."""
    noise = clip_noise(hfgen_generator(0), (4, 8, 8), FRAMES, SHARE)
    torch.save(noise.transpose(1, 2), tmp_path / "x.pt")
    done = stranger.run(STRANGER, trained, tmp_path / "x.pt", token=None).check()
    assert done.out.split("\n")[0] == f"AnimateDiffPipeline DDIMScheduler (1, {FRAMES}, 1, 16, 16)"
    ours = hfgen.sample(model, num_images=1, seed=0, prompt=(TWO,), scheduler="ddim", steps=2).images
    theirs = torch.load(tmp_path / "x.pt")
    assert (ours.float() / 255 - theirs).abs().max() < 0.5 / 255 + 1e-5


def hfgen_generator(image):
    from hfgen.drawing.draw import image_generators

    return image_generators(torch.device("cpu"), 0, image, image + 1)[0]


def test_its_scheduler_tells_lambda_and_frames_and_diffusers_does_not_mind(trained, recwarn):
    config = json.loads((trained / "scheduler" / "scheduler_config.json").read_text())
    assert (config["_hfgen_shared_noise"], config["_hfgen_num_frames"]) == (SHARE, FRAMES)
    scheduler = DDIMScheduler.from_pretrained(trained, subfolder="scheduler")
    assert not scheduler.config.clip_sample
    assert hfgen.load(trained).image_shape == (FRAMES, 1, 16, 16)


def test_one_of_plain_animatediff_is_sampled_as_diffusers_does(model, tmp_path):
    pipeline = text_to_image()
    unet = motion_unet(pipeline.unet, positions=32, heads=2)
    parts = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    AnimateDiffPipeline(unet=unet, motion_adapter=motion_adapter(unet), **parts).save_pretrained(tmp_path / "theirs")
    theirs = hfgen.load(tmp_path / "theirs")
    assert theirs.image_shape == (16, 1, 16, 16)
    sampler = VideoSampler(theirs.pipeline, VideoSampling(prompt=(TWO,), steps=2))
    assert "lambda 0" in sampler.how
    assert model.digest() != theirs.digest()


def test_the_record_tells_the_name_of_local_digits_and_no_path(trained, few):
    record = json.loads((trained / "training.json").read_text())
    assert record["data"]["name"] == f"moving:{few.name}"
    assert "moving:FOLDER_OF_A_DATASET" in record["command"]
    assert str(few.parent) not in (trained / "training.json").read_text() + (trained / "README.md").read_text()


@pytest.mark.slow
def test_the_card_tells_of_the_noise(trained):
    card = (trained / "README.md").read_text()
    assert "pipeline_tag: text-to-video" in card
    assert "0.5**0.5 * shared + 0.5**0.5 * own" in card
    assert "lambda 0.5: the covariance between frames" in card
    code = card.split("```python\n")[1].split("```")[0].replace('"moving"', repr(str(trained)))
    code = code.replace("num_frames=4,", "num_frames=4, num_inference_steps=2,").replace(
        "clip.gif", str(trained / "x.gif")
    )
    exec(code, {})
    with Image.open(trained / "x.gif") as found:
        assert (found.n_frames, found.size) == (FRAMES, (16, 16))


# -- the sampler


def test_noise_of_fewer_frames_is_the_beginning_of_that_of_more():
    more, fewer = (clip_noise(torch.Generator().manual_seed(3), (2, 4, 4), frames, 0.3) for frames in (6, 2))
    assert torch.equal(more[:, :2], fewer)


def test_starts_from_noise_of_the_covariance_that_it_was_trained_on():
    """Of 2,000 clips of 2 frames of 16 values, within 5 standard errors of a mean of products of variance at most 2."""
    noise = torch.cat([clip_noise(g, (1, 4, 4), 2, 0.7) for g in generators(2000)]).double()
    error = 5 * (2 / (2000 * 16)) ** 0.5
    assert abs((noise[:, 0] * noise[:, 1]).mean() - 0.7) < error
    assert abs(noise.square().mean() - 1) < error


def test_a_clip_does_not_depend_on_its_batch(model):
    words = {"prompt": (TWO, THREE), "steps": 2, "seed": 5}
    together = hfgen.sample(model, num_images=3, **words).images
    one_by_one = hfgen.sample(model, num_images=3, batch_size=1, **words).images
    assert together.shape == (3, FRAMES, 1, 16, 16)
    assert (together.int() - one_by_one.int()).abs().max() <= 1  # sums in another order


@torch.no_grad()
def test_independent_frames_are_images_of_the_text_to_image_model(model, base):
    """Frame by frame from the same noise, by StableDiffusionPipeline, which knows no motion."""
    sampler = VideoSampler(model.pipeline, VideoSampling(prompt=(TWO,), scheduler="ddim", steps=3)).alone()
    clip = sampler.draw(generators(1), 0)[0]
    noise = clip_noise(generators(1)[0], (4, 8, 8), FRAMES, 0.0)[0]
    still = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    still.scheduler = DDIMScheduler.from_config(model.pipeline.scheduler.config, timestep_spacing="trailing")
    found = still([TWO] * FRAMES, num_inference_steps=3, latents=noise, height=16, width=16, output_type="pt").images
    assert torch.allclose(clip, found, atol=1e-4)


def test_without_motion_leaves_the_network_as_it_is(model):
    before = {name: value.clone() for name, value in model.pipeline.unet.state_dict().items()}
    without_motion(model.pipeline.unet)
    assert all(torch.equal(value, before[name]) for name, value in model.pipeline.unet.state_dict().items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheduler": "ddpm"}, "scheduler='ddpm' draws noise at each step.*ddim, dpmsolver\\+\\+"),
        ({"eta": 1.0}, "eta=1 draws noise at each step"),
        ({"num_frames": 7}, "num_frames=7: the motion modules of this model have embeddings for 6"),
        ({"prompt": ("a picture of " + "two " * 30,)}, "has [0-9]+ tokens"),
        ({"prompt": None}, "draws from words: pass --prompt"),
        ({"steps": 5000}, "num_inference_steps=5000: this model was trained for"),
        ({"independent_frames": True, "eta": 0.5}, "eta=0.5: DPMSolverMultistepScheduler has no eta"),
        ({"independent_frames": True, "num_frames": 7}, "num_frames=7: the motion modules"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5: of a model that draws from words it is 1, none, or more"),
        ({"compile": True}, "compile: not for models of clips"),
        ({"trajectory": True}, "trajectory: this model"),
    ],
)
def test_what_it_cannot_draw_is_told(model, options, says):
    with pytest.raises(HfgenError, match=says):
        hfgen.sample(model, num_images=1, **{"prompt": (TWO,), "steps": 2, **options})


# -- commands


def test_sample_writes_a_picture_of_frames_and_an_animation(trained, tmp_path, capsys):
    words = ["sample", trained, "--prompt", TWO, "--num_images", "2", "--num_frames", "5", "--steps", "2"]
    assert main([*map(str, words), "--out", str(tmp_path / "c.png")]) in (0, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.gif", "c.png"]
    with Image.open(tmp_path / "c.gif") as animation, Image.open(tmp_path / "c.png") as grid:
        assert animation.n_frames == 5
        assert grid.width > 2 * grid.height  # two rows of five
    assert "2 clips of 5x1x16x16" in capsys.readouterr().out


def test_evaluate_measures_clips_their_floor_and_frames_drawn_alone(model, tmp_path):
    from hfgen.evaluation.evaluate import write_results

    result = hfgen.evaluate(model, samples=12, steps=2, guidance_scale=1.0, seed=1)
    for key in ("motion_error", "speed", "same_class"):
        assert {key, f"{key}_floor", f"{key}_independent"} <= result.metrics.keys()
    assert {"class_accuracy", "kid", "kid_floor"} <= result.metrics.keys()
    assert result.metrics["same_class_floor"].mean == 1
    assert "lambda 0.5" in result.samples.how
    with pytest.raises(HfgenError, match="num_frames=2: clips are measured beside those of the data, of 4 frames"):
        hfgen.evaluate(model, samples=12, steps=2, num_frames=2)
    written = write_results(result, model.family, tmp_path / "results.json")
    assert {path.name for path in written} == {
        f"results{end}" for end in (".json", "_samples.png", "_real.png", "_neighbours.png")
    }


def test_figures_are_strips_of_real_clips_above_drawn_ones(trained):
    with Image.open(trained / "strips.png") as strips:
        assert strips.height > 2 * strips.width  # ten rows of four
    with Image.open(trained / "samples.gif") as animation:
        assert animation.n_frames == FRAMES


# -- a training goes on


@pytest.mark.slow
def test_a_video_model_is_trained_on(trained, few, tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.families.video.Video.figures", lambda *_, **__: [])
    more = {"max_train_steps": 1, "pretrained_model_name_or_path": trained, "motion_num_attention_heads": 2}
    out = train(tmp_path / "more", few, **more)
    config = json.loads((out / "motion_adapter" / "config.json").read_text())
    assert config["motion_num_attention_heads"] == 4  # its own
    name = "down_blocks.0.motion_modules.0.proj_out.weight"
    first, second = (
        load_file(f / "motion_adapter" / "diffusion_pytorch_model.safetensors")[name] for f in (trained, out)
    )
    assert 0 < (first - second).abs().max() < 0.02  # one step of Adam of 0.01


def test_diffusers_loads_what_hfgen_kept(trained):
    assert isinstance(DiffusionPipeline.from_pretrained(trained), AnimateDiffPipeline)
