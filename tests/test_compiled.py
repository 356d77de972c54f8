"""Sampling with a compiled UNet: the same images, one compilation, and a way out where there is no compiler."""

import pytest
import torch
from diffusers import UNet2DModel
from drawing import draw, sampler_of
from torch._dynamo.exc import BackendCompilerFailed

from hfgen.core.errors import HfgenError
from hfgen.drawing import compiled
from hfgen.drawing.compiled import compile_unet, is_compiled
from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline
from hfgen.schedulers import LinearDDPMScheduler

CONFIG = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}


def pipeline_of(cls=UnconditionalDiffusionPipeline, **config):
    torch.manual_seed(0)
    return cls(UNet2DModel(**CONFIG, **config).eval(), LinearDDPMScheduler(100))


@pytest.fixture
def graphs(monkeypatch):
    """The shapes of each graph that is compiled; it is run as it was traced, without a C++ compiler."""
    found = []
    real = torch.compile

    def compile(model, mode, dynamic):
        def backend(graph, inputs):
            found.append([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor) and x.ndim == 4])
            return graph.forward

        return real(model, backend=backend, dynamic=dynamic)

    torch._dynamo.reset()
    monkeypatch.setattr(compiled.torch, "compile", compile)
    yield found
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddpm", "sde-dpmsolver++", "heun"])
def test_images_are_those_of_before_from_one_graph(graphs, sampler):
    pipeline = pipeline_of()
    arguments = {"scheduler": sampler, "steps": 6, "seed": 1, "batch_size": 3, "trajectory": True}
    expected = draw(pipeline, 7, **arguments)
    compile_unet(pipeline.unet)
    compile_unet(pipeline.unet)
    for count in (7, 2):
        found = draw(pipeline, count, **arguments)
        assert found.images.shape == (count, 1, 8, 8)
        assert (found.images.int() - expected.images[:count].int()).abs().max() <= 1
        assert (found.trajectory.int() - expected.trajectory[:, :count].int()).abs().max() <= 1
    assert len(graphs) == 1
    assert (3, 1, 8, 8) in graphs[0]


@pytest.mark.slow
def test_classes_and_guidance(graphs):
    pipeline = pipeline_of(ClassConditionalDDPMPipeline, num_class_embeds=4)
    arguments = {"seed": 1, "batch_size": 4, "class_labels": [2, 0, 1], "guidance_scale": 2.0, "steps": 5}
    expected = draw(pipeline, 6, **arguments).images.int()
    compile_unet(pipeline.unet)
    assert (draw(pipeline, 6, **arguments).images.int() - expected).abs().max() <= 1
    assert len(graphs) == 1


@pytest.mark.slow
def test_a_sampler_compiles_when_it_draws_and_no_earlier(graphs):
    pipeline = pipeline_of()
    sampler_of(pipeline, compile=True, steps=4)
    assert not is_compiled(pipeline.unet)
    images = draw(pipeline, 5, steps=4, batch_size=2, compile=True).images
    assert is_compiled(pipeline.unet)
    assert (images.int() - draw(pipeline_of(), 5, steps=4, batch_size=2).images.int()).abs().max() <= 1


@pytest.mark.slow
def test_weights_and_saving_are_as_before(tmp_path):
    pipeline = pipeline_of()
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    compile_unet(pipeline.unet)
    pipeline.save_pretrained(tmp_path)
    after = UnconditionalDiffusionPipeline.from_pretrained(tmp_path).unet
    assert before.keys() == after.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in after.state_dict().items())


def test_without_a_compiler_the_way_out_is_told(monkeypatch):
    def compile(model, mode, dynamic):
        def fail(*_args, **_kwargs):
            raise BackendCompilerFailed(lambda: None, RuntimeError("no C++ compiler found\nlong story"), None)

        return fail

    monkeypatch.setattr(compiled.torch, "compile", compile)
    pipeline = pipeline_of()
    compile_unet(pipeline.unet)
    with pytest.raises(HfgenError, match=r"torch.compile does not work here \(.*\): leave --compile out") as told:
        draw(pipeline, 1, steps=2)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_the_compiler_of_this_machine(monkeypatch):
    """Once in earnest, where there is a compiler: it takes some ten seconds."""
    torch._dynamo.reset()
    pipeline = pipeline_of()
    expected = draw(pipeline, 3, scheduler="ddpm", steps=4, batch_size=2).images.int()
    compile_unet(pipeline.unet)
    try:
        found = draw(pipeline, 3, scheduler="ddpm", steps=4, batch_size=2).images.int()
    except HfgenError as error:
        pytest.skip(str(error))
    assert (found - expected).abs().max() <= 1
