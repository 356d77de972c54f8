"""Loading a pipeline, sampling it with a seed for each image, and the pictures."""

import json

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel
from drawing import draw
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from PIL import Image

from hfgen.core.device import pick_device
from hfgen.core.errors import HfgenError
from hfgen.core.media import image_grid, save_gif, to_uint8
from hfgen.drawing.draw import draw_samples
from hfgen.drawing.sampler import fitting
from hfgen.hub.loading import load
from hfgen.pipelines import UnconditionalDiffusionPipeline

STEPS = 20


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return UnconditionalDiffusionPipeline(unet.eval(), DDPMScheduler(num_train_timesteps=STEPS))


@pytest.fixture
def saved(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddpm", "dpmsolver++"])
def test_an_image_depends_on_the_seed_and_its_number_alone(pipeline, sampler):
    def generate(count, **arguments):
        return draw(pipeline, count, scheduler=sampler, steps=8, **arguments)

    expected = generate(9, seed=3, batch_size=9).images.int()
    assert expected.shape == (9, 1, 8, 8)
    assert torch.equal(generate(9, seed=3, batch_size=9).images, expected)
    for num_images, batch_size in ((9, 1), (9, 4), (9, 64), (5, 64), (1, 64)):
        images = generate(num_images, seed=3, batch_size=batch_size).images.int()
        # equal but for the rounding of matrix products of another size, which moves a pixel by a level at most
        assert (images - expected[:num_images]).abs().max() <= 1
        assert (images != expected[:num_images]).float().mean() < 0.01
    assert (generate(9, seed=4).images.int() - expected).abs().float().mean() > 10


def test_a_trajectory_ends_in_the_images(pipeline):
    samples = draw(pipeline, 20, scheduler="ddpm", seed=1, batch_size=7, trajectory=True)
    assert samples.trajectory.shape == (STEPS, 16, 1, 8, 8)
    assert torch.equal(samples.trajectory[-1], samples.images[:16])
    assert not torch.equal(samples.trajectory[0], samples.images[:16])


def test_a_long_trajectory_is_thinned_and_shows_exploding_variance_at_image_scale(pipeline):
    longer = UnconditionalDiffusionPipeline(pipeline.unet, DDPMScheduler(100))
    trajectory = draw(longer, 2, scheduler="heun", steps=40, trajectory=True).trajectory
    assert len(trajectory) == 50
    assert 100 < trajectory[0].float().mean() < 155
    assert ((trajectory[0] > 0) & (trajectory[0] < 255)).float().mean() > 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images=0"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"steps": 21}, "use 1..20"),
        ({"eta": 1.0, "scheduler": "ddpm"}, "DDPMScheduler has no eta"),
    ],
)
def test_arguments_out_of_range(pipeline, arguments, message):
    with pytest.raises(HfgenError, match=message):
        draw(pipeline, **{"num_images": 1, **arguments})


@pytest.mark.parametrize("cls", [DDPMPipeline, DDIMPipeline])
def test_a_stock_repository_loads(pipeline, cls, tmp_path):
    cls(pipeline.unet, pipeline.scheduler).save_pretrained(tmp_path)
    loaded = load(tmp_path).pipeline
    assert type(loaded) is UnconditionalDiffusionPipeline
    assert torch.equal(loaded.scheduler.betas, pipeline.scheduler.betas)


def fails_to_load(path, message, **kwargs):
    with pytest.raises(HfgenError, match=message) as caught:
        load(path, **kwargs)
    assert "\n" not in str(caught.value)


def test_places_that_hold_no_pipeline(saved, tmp_path):
    fails_to_load(tmp_path / "nowhere", "does not exist")
    fails_to_load("./nowhere", "does not exist")
    fails_to_load("no name", "neither a folder here nor a repository name")
    fails_to_load(saved / "model_index.json", "is a file")
    fails_to_load(tmp_path, "model_index.json missing")
    (saved / "model_index.json").unlink()
    fails_to_load(saved, "model_index.json missing")


def test_damaged_files(saved):
    weights = saved / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    fails_to_load(saved, "cannot be loaded, a file is damaged")
    weights.unlink()
    fails_to_load(saved, "diffusion_pytorch_model.*missing")
    (saved / "model_index.json").write_text("{")
    fails_to_load(saved, "cannot be loaded, a file is damaged")


def test_other_kinds_of_pipeline(saved):
    path = saved / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "_class_name": "NoPipeline", "vqvae": ["diffusers", "VQModel"]}))
    fails_to_load(saved, "is a NoPipeline of scheduler, unet, vqvae: hfgen samples its own pipelines, and those that")
    path.write_text(json.dumps({**index, "_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}))
    fails_to_load(saved, r"is no pipeline that can be loaded, vqvae/\* missing")
    path.write_text(json.dumps({**index, "_class_name": ["my_pipeline", "MyPipeline"]}))
    fails_to_load(saved, "code of its own, which hfgen does not run")


def test_repositories_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        HfApi(hub.url, "hf_alice").create_repo("alice/empty")
        fails_to_load("alice/none", "neither a folder here nor a repository on the Hub")
        fails_to_load("alice/empty", "model_index.json missing")
        fails_to_load("alice/empty", "no revision 'v9'", revision="v9")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    fails_to_load("alice/none", "alice/none is no folder here, is not in the cache, and the Hub cannot be reached")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails_to_load("alice/none", "the Hub cannot be reached: check the path, or the network and HF_HUB_OFFLINE")


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type in ("cpu", "cuda", "mps")
    for name in ("cuda:77", "toaster"):
        with pytest.raises(HfgenError, match=f"device '{name}' is not available"):
            pick_device(name)


def test_every_8_bit_value_survives_the_model_range():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(values.float() / 127.5 - 1), values)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_grids():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 8, 8) * 50
    grid = image_grid(images)
    assert (grid.mode, grid.size) == ("L", (3 * 58 + 2, 2 * 58 + 2))
    assert [grid.getpixel((2 + 58 * (i % 3), 2 + 58 * (i // 3))) for i in range(5)] == [0, 50, 100, 150, 200]
    assert image_grid(images, columns=5, scale=1).size == (5 * 10 + 2, 12)
    assert image_grid(images.expand(5, 3, 8, 8)).mode == "RGB"
    assert image_grid([Image.new("RGB", (64, 64))]).size == (68, 68)
    with pytest.raises(ValueError, match=r"torch.float32 of \(5, 1, 8, 8\)"):
        image_grid(images.float())


def test_an_animation_holds_its_last_frame(tmp_path):
    save_gif([Image.new("L", (8, 8), 80 * i) for i in range(3)], tmp_path / "t.gif")
    with Image.open(tmp_path / "t.gif") as animation:
        durations = []
        for i in range(animation.n_frames):
            animation.seek(i)
            durations.append(animation.info["duration"])
    assert durations == [60, 60, 1500]
    assert [path.name for path in tmp_path.iterdir()] == ["t.gif"]


def test_too_many_at_once_are_one_line():
    line = r"^3 clips at once do not fit on cpu: lower batch_size$"
    with pytest.raises(HfgenError, match=line), fitting(3, torch.device("cpu"), "clips"):
        raise torch.OutOfMemoryError("out of memory")


class Slow:
    """Draws at once, and is told that it takes hours; without steps to tell of."""

    calls, fixed_batch, how, class_names = 0, False, "slow", None

    def draw(self, generators, first, on_step=None):
        return torch.zeros(len(generators), 1, 2, 2)

    def warm_up(self, generators, first):
        pass


@pytest.mark.parametrize(("unseen", "shown"), [(0, True), (60, False)])
def test_what_takes_long_and_has_no_steps_shows_its_images(monkeypatch, capsys, unseen, shown):
    monkeypatch.setattr("hfgen.drawing.draw.SECONDS_UNSEEN", unseen)
    draw_samples(Slow(), device=torch.device("cpu"), num_images=5, batch_size=2)
    err = capsys.readouterr().err
    assert ("drawing: 100%" in err and "5/5" in err) == shown
    assert bool(err) == shown
