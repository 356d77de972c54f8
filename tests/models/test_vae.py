"""The VAEs: their networks against NumPy, q(z|x) against torch.distributions, saving, presets, configs and errors."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from hfgen.core.errors import HfgenError
from hfgen.models import LIKELIHOODS, MLPVAE, VAE_PRESETS, ConvVAE, build_vae, load_vae_config, modeling_hfgen_vae
from hfgen.models.modeling_hfgen_vae import DiagonalGaussian

MODELS = {
    "mlp": (MLPVAE, {"sample_size": 8, "latent_size": 3, "hidden_sizes": [7, 5]}),
    "linear": (MLPVAE, {"sample_size": 8, "latent_size": 3, "hidden_sizes": []}),
    "conv": (ConvVAE, {"sample_size": 8, "latent_size": 3, "block_out_channels": [4, 6]}),
}
PRESETS = {
    "digits": (1, 8),
    **{f"mnist-{kind}": (1, 28) for kind in ("2d", "50d", "50d-wide", "grey", "conv")},
    **{f"grey-{side}": (1, side) for side in (32, 64, 128)},
    **{f"rgb-{side}": (3, side) for side in (28, 32, 64, 128)},
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def build(name, **changes):
    """A small model with weights of size 0.3, so that q(z|x) depends on x, and a pixel_mean other than zero."""
    kind, values = MODELS[name]
    vae = kind(**{**values, **changes})
    with torch.no_grad():
        for tensor in (*vae.parameters(), vae.pixel_mean):
            tensor.normal_(0, 0.3, generator=seeded(tensor.numel()))
    return vae.eval()


def images(vae, batch_size=4):
    shape = (batch_size, vae.config.in_channels, vae.config.sample_size, vae.config.sample_size)
    return torch.rand(shape, generator=seeded(1)) * 2 - 1


def noise_for(vae, samples=5, batch_size=4):
    return torch.randn(samples, batch_size, vae.config.latent_size, generator=seeded(2))


def posterior(seed=0, batch_size=4, latents=3):
    mean, logvar = torch.randn(2, batch_size, latents, generator=seeded(seed), dtype=torch.float64)
    return DiagonalGaussian(mean, logvar), Independent(Normal(mean, (logvar / 2).exp()), 1)


def one_line(error):
    text = str(error.value)
    return bool(text) and "\n" not in text


# q(z|x)


def test_kl_is_that_of_torch_distributions():
    q, reference = posterior()
    prior = Independent(Normal(torch.zeros_like(q.mean), 1.0), 1)
    torch.testing.assert_close(q.kl(), kl_divergence(reference, prior))


def test_kl_vanishes_at_the_prior_alone():
    zeros = torch.zeros(2, 3)
    assert DiagonalGaussian(zeros, zeros).kl().eq(0).all()
    q, _ = posterior()
    assert (q.kl() > 0).all()


def test_log_prob_is_that_of_torch_distributions():
    q, reference = posterior()
    z = torch.randn(5, 4, 3, generator=seeded(1), dtype=torch.float64)
    assert q.log_prob(z).shape == (5, 4)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z))
    torch.testing.assert_close(q.log_prob(z[0]), reference.log_prob(z[0]))


def test_moments_of_samples():
    mean, logvar = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.0, 1.5, -3.0]])
    count = 50_000
    z = DiagonalGaussian(mean.expand(count, 3), logvar.expand(count, 3)).sample(seeded(0)).double()
    std = (logvar / 2).exp().double()
    # five standard errors: std / sqrt(n) of a mean, std / sqrt(2 n) of a standard deviation
    assert ((z.mean(0) - mean).abs() < 5 * std / math.sqrt(count)).all()
    assert ((z.std(0) - std).abs() < 5 * std / math.sqrt(2 * count)).all()


def test_samples_of_a_generator():
    q, _ = posterior()
    z = q.sample(seeded(3))
    assert z.equal(q.sample(seeded(3)))
    assert not z.equal(q.sample(seeded(4)))
    noise = torch.randn(4, 3, generator=seeded(3), dtype=torch.float64)
    torch.testing.assert_close(z, q.mean + (q.logvar / 2).exp() * noise)
    assert q.mode().equal(q.mean)


def test_row_i_of_a_sample_depends_on_generator_i_alone():
    q, _ = posterior()
    z = q.sample([seeded(seed) for seed in (0, 1, 2, 3)])
    other = q.sample([seeded(seed) for seed in (0, 1, 9, 3)])
    assert z.eq(other).all(1).tolist() == [True, True, False, True]
    for i, seed in enumerate((0, 1, 2, 3)):
        alone = DiagonalGaussian(q.mean[i : i + 1], q.logvar[i : i + 1]).sample(seeded(seed))
        assert z[i : i + 1].equal(alone)


def test_as_many_generators_as_rows():
    q, _ = posterior()
    with pytest.raises(ValueError, match="shorter"):
        q.sample([seeded(0)] * 3)


def test_extreme_log_variances_stay_finite():
    q = DiagonalGaussian(torch.zeros(1, 2), torch.tensor([[-1000.0, 1000.0]]))
    assert q.logvar.tolist() == [[-30, 20]]
    z = q.sample(seeded(0))
    assert all(value.isfinite().all() for value in (q.kl(), q.log_prob(z), z, q.std, q.var))
    # 1/2 sum of (var - 1 - logvar), in float32
    assert q.kl().item() == pytest.approx(0.5 * (math.exp(-30) + 29 + math.exp(20) - 21), rel=1e-5)


# the networks


NUMPY_ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
}


def numpy_layers(network, x, activation):
    """Linear layers with the activation between them, in float64; the weights in the order of the state dict."""
    values = [value.double().numpy() for value in network.state_dict().values()]
    for i in range(0, len(values), 2):
        x = x @ values[i].T + values[i + 1]
        x = activation(x) if i + 2 < len(values) else x
    return x


@pytest.mark.parametrize("activation", NUMPY_ACTIVATIONS)
@pytest.mark.parametrize("name", ["mlp", "linear"])
@torch.no_grad()
def test_mlp_vae_is_its_formula(name, activation):
    vae = build(name, activation=activation)
    act, x = NUMPY_ACTIVATIONS[activation], images(vae)
    moments = numpy_layers(vae.encoder, (x - vae.pixel_mean).flatten(1).double().numpy(), act)
    q = vae.encode(x).latent_dist
    # float32 sums of 64 products of size 0.3
    np.testing.assert_allclose(torch.cat([q.mean, q.logvar], 1), moments, rtol=1e-5, atol=1e-5)
    z = torch.randn(4, 3, generator=seeded(3))
    logits = numpy_layers(vae.decoder, z.double().numpy(), act)
    expected = (2 / (1 + np.exp(-logits)) - 1).reshape(4, 1, 8, 8)
    np.testing.assert_allclose(vae.decode(z).sample, expected, rtol=1e-5, atol=1e-5)


def test_every_activation_is_tested():
    assert set(NUMPY_ACTIVATIONS) == set(modeling_hfgen_vae.ACTIVATIONS)


def test_defaults():
    assert MLPVAE().config.latent_size == 2
    vae = ConvVAE()
    assert vae.config.latent_size == 32
    assert vae.config.likelihood == "discretized_logistic"


@pytest.mark.parametrize("hidden_sizes", [(), (4,), (9, 3, 6)])
def test_hidden_sizes_are_free_and_reversed_in_the_decoder(hidden_sizes):
    vae = MLPVAE(sample_size=4, latent_size=2, hidden_sizes=hidden_sizes)
    sizes = [[m.out_features for m in net if isinstance(m, torch.nn.Linear)] for net in (vae.encoder, vae.decoder)]
    assert sizes == [[*hidden_sizes, 4], [*reversed(hidden_sizes), 16]]


@pytest.mark.parametrize("in_channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("sample_size", "block_out_channels"),
    [(2, [4]), (8, [4, 6]), (12, [4, 6]), (28, [4, 6]), (8, [4, 6, 8]), (16, [6])],
)
@torch.no_grad()
def test_conv_vae_at_resolutions_that_its_stride_divides(sample_size, block_out_channels, in_channels):
    vae = build("conv", sample_size=sample_size, block_out_channels=block_out_channels, in_channels=in_channels)
    seen = {"encoder": [], "decoder": []}
    for side, network in ((seen["encoder"], vae.encoder), (seen["decoder"], vae.decoder)):
        for module in network:
            if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                module.register_forward_hook(lambda _, __, output, side=side: side.append(output.shape[-1]))
    x = images(vae, 2)
    assert vae(x).sample.shape == x.shape
    assert vae.encode(x).latent_dist.mean.shape == (2, 3)
    assert vae.decode_outputs(torch.zeros(2, 3)).shape == (2, 2 * in_channels, sample_size, sample_size)
    sides = [sample_size // 2**i for i in range(len(block_out_channels) + 1)]
    assert list(dict.fromkeys(seen["encoder"])) == sides
    assert list(dict.fromkeys(seen["decoder"])) == sides[::-1]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_decoded_shape_and_range(name, in_channels, likelihood):
    if (likelihood, in_channels) == ("discretized_logistic_rgb", 1):
        with pytest.raises(ValueError, match="is one of 3 channels, and in_channels=1"):
            build(name, in_channels=1, likelihood=likelihood)
        return
    vae = build(name, in_channels=in_channels, likelihood=likelihood)
    z = 3 * torch.randn(6, 3, generator=seeded(0))
    decoded = vae.decode(z).sample
    assert decoded.shape == (6, in_channels, 8, 8)
    assert decoded.std(0).min() > 1e-4  # every pixel depends on z
    if likelihood != "gaussian":  # its mean is the decoder's output
        assert decoded.abs().max() <= 1
    assert vae.decode(z, return_dict=False)[0].equal(decoded)
    assert len(vae.decode(z, return_dict=False)) == 1
    # means are those of the likelihood
    assert decoded.equal(vae.likelihood.mean(vae.decode_outputs(z)))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_outputs_of_many_samples_are_those_of_each(name):
    vae = build(name)
    z = noise_for(vae)
    outputs = vae.decode_outputs(z)
    assert outputs.shape == (5, 4, vae.likelihood.channels, 8, 8)
    # float32 sums in another order
    torch.testing.assert_close(outputs, torch.stack([vae.decode_outputs(row) for row in z]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_forward_decodes_the_mode_or_a_sample(name):
    vae = build(name)
    x = images(vae)
    q = vae.encode(x).latent_dist
    assert q.mean.std(0).min() > 1e-3  # q depends on x
    assert vae(x).sample.equal(vae.decode(q.mode()).sample)
    assert vae(x, sample_posterior=True, generator=seeded(0)).sample.equal(vae.decode(q.sample(seeded(0))).sample)
    rows = vae(x, sample_posterior=True, generator=[seeded(i) for i in range(4)]).sample
    assert rows.equal(vae.decode(q.sample([seeded(i) for i in range(4)])).sample)
    assert not rows.equal(vae(x).sample)


@torch.no_grad()
def test_tuples():
    vae = build("mlp")
    x = images(vae)
    (q,) = vae.encode(x, return_dict=False)
    assert q.mean.equal(vae.encode(x).latent_dist.mean)
    (decoded,) = vae(x, return_dict=False)
    assert decoded.equal(vae(x).sample)
    (sampled,) = vae(x, sample_posterior=True, return_dict=False, generator=seeded(0))
    assert sampled.equal(vae(x, sample_posterior=True, generator=seeded(0)).sample)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_forward_with_latent_noise(name):
    vae = build(name)
    x, noise = images(vae), noise_for(vae)
    mean, logvar, z, outputs = vae(x, latent_noise=noise)
    q = vae.encode(x).latent_dist
    assert mean.equal(q.mean)
    assert logvar.equal(q.logvar)
    # one product and one sum in float32
    torch.testing.assert_close(z, q.mean + (q.logvar / 2).exp() * noise)
    assert z.shape == (5, 4, 3)
    assert outputs.shape == (5, 4, vae.likelihood.channels, 8, 8)
    assert outputs.equal(vae.decode_outputs(z))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reparameterize", [True, False])
def test_reparameterization_alone_carries_gradients_to_the_encoder(name, reparameterize):
    vae = build(name)
    mean, logvar, z, outputs = vae(images(vae), latent_noise=noise_for(vae), reparameterize=reparameterize)
    assert z.requires_grad == reparameterize
    outputs.square().sum().backward(retain_graph=True)
    for p in vae.encoder.parameters():
        assert (p.grad is not None and p.grad.ne(0).any()) == reparameterize
    assert all(p.grad.ne(0).any() for p in vae.decoder.parameters())
    # mean and log-variance carry theirs either way
    vae.zero_grad()
    (mean.square() + logvar.square()).sum().backward()
    assert all(p.grad.ne(0).any() for p in vae.encoder.parameters())


@torch.no_grad()
def test_z_is_the_same_with_and_without_reparameterization():
    vae = build("mlp")
    x, noise = images(vae), noise_for(vae)
    values = vae(x, latent_noise=noise), vae(x, latent_noise=noise, reparameterize=False)
    assert all(a.equal(b) for a, b in zip(*values, strict=True))


def test_pixel_mean_is_not_trained():
    vae = build("mlp")
    assert "pixel_mean" not in dict(vae.named_parameters())
    assert "pixel_mean" in vae.state_dict()


# saving


SAVED = [
    ("mlp", {"likelihood": "gaussian", "activation": "elu"}),
    ("mlp", {"likelihood": "gaussian", "gaussian_variance": 0.25, "in_channels": 3}),
    ("linear", {"likelihood": "categorical"}),
    ("conv", {"in_channels": 3, "likelihood": "bernoulli_static"}),
]


@pytest.mark.parametrize(("name", "changes"), SAVED)
@torch.no_grad()
def test_save_and_load(tmp_path, name, changes):
    vae = build(name, **changes)
    vae.save_pretrained(tmp_path)
    code = "modeling_hfgen_vae.py"
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors", code}
    assert (tmp_path / code).read_text() == Path(modeling_hfgen_vae.__file__).read_text()
    loaded = type(vae).from_pretrained(tmp_path)
    assert not loaded.training
    states = vae.state_dict(), loaded.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(states[0][key].equal(states[1][key]) for key in states[0])
    public = [{k: v for k, v in model.config.items() if not k.startswith("_")} for model in (vae, loaded)]
    assert public[0] == public[1]
    x = images(vae)
    assert loaded(x).sample.equal(vae(x).sample)
    assert loaded.encode(x).latent_dist.logvar.equal(vae.encode(x).latent_dist.logvar)


def test_every_argument_is_in_the_config():
    vae = build("mlp", likelihood="gaussian", gaussian_variance=0.5)
    config = {k: v for k, v in vae.config.items() if not k.startswith("_")}
    assert config == {
        "in_channels": 1,
        "sample_size": 8,
        "latent_size": 3,
        "hidden_sizes": [7, 5],
        "activation": "tanh",
        "likelihood": "gaussian",
        "gaussian_variance": 0.5,
        "latent_bound": None,
    }


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import modeling_hfgen_vae as m
assert m.__file__.startswith(sys.argv[1]), m.__file__
for kind in (m.MLPVAE, m.ConvVAE):
    vae = kind(sample_size=8)
    vae.save_pretrained(sys.argv[1] + "/saved")
    loaded = kind.from_pretrained(sys.argv[1] + "/saved")
    x = torch.zeros(2, 1, 8, 8)
    assert loaded(x).sample.equal(vae.eval()(x).sample)
    mean, logvar, z, outputs = loaded(x, latent_noise=torch.zeros(3, 2, vae.config.latent_size))
    assert loaded.likelihood.log_prob(torch.ones_like(x), outputs).isfinite().all()
try:
    import hfgen.core.errors
except ModuleNotFoundError:
    print("no hfgen")
"""


def test_the_file_works_without_hfgen(tmp_path, stranger):
    shutil.copy(modeling_hfgen_vae.__file__, tmp_path)
    assert stranger.run(SCRIPT, tmp_path, token=None).check().out.strip() == "no hfgen"


# errors of the models


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MLPVAE, {"likelihood": "beta"}, r"likelihood='beta': choose one of bernoulli, .*categorical"),
        (MLPVAE, {"activation": "sine"}, r"activation='sine': choose one of tanh, relu"),
        (MLPVAE, {"latent_size": 0}, r"latent_size=0: at least 1"),
        (MLPVAE, {"latent_size": -3}, r"latent_size=-3: at least 1"),
        (MLPVAE, {"likelihood": "gaussian", "gaussian_variance": 0.0}, r"gaussian_variance=0\.0: .*greater than 0"),
        (MLPVAE, {"likelihood": "gaussian", "gaussian_variance": -0.5}, r"gaussian_variance=-0\.5"),
        (MLPVAE, {"likelihood": "gaussian", "gaussian_variance": math.inf}, r"gaussian_variance=inf"),
        (MLPVAE, {"likelihood": "gaussian", "gaussian_variance": math.nan}, r"gaussian_variance=nan"),
        (ConvVAE, {"likelihood": "beta"}, r"likelihood='beta'"),
        (ConvVAE, {"activation": "sine"}, r"activation='sine'"),
        (ConvVAE, {"latent_size": 0}, r"latent_size=0"),
        (ConvVAE, {"sample_size": 30}, r"sample_size=30 is not divisible by 4, 2 for each of 2 blocks: pad or resize"),
        (ConvVAE, {"sample_size": 28, "block_out_channels": [4, 4, 4]}, r"sample_size=28 is not divisible by 8"),
        (ConvVAE, {"sample_size": 2}, r"sample_size=2 is not divisible by 4"),
    ],
)
def test_values_that_do_not_build(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"sample_size": 8, **values})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MLPVAE, {"hidden_sizes": [0]}, r"hidden_sizes=\[0\]"),
        (MLPVAE, {"hidden_sizes": [4, -1]}, r"hidden_sizes=\[4, -1\]"),
        (ConvVAE, {"block_out_channels": [4, 0]}, r"block_out_channels=\[4, 0\]"),
        (ConvVAE, {"block_out_channels": []}, r"block_out_channels=\[\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_units_do_not_build(kind, values, message):
    """A layer of 0 units would cut x from z, and z from the image, without a word."""
    with pytest.raises(ValueError, match=message):
        kind(**{"sample_size": 8, **values})


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 9), (2, 1, 16, 16), (1, 8, 8), (2, 64), (2, 1, 1, 8, 8)])
def test_images_of_another_shape(name, shape):
    with pytest.raises(ValueError, match=r"takes \(B, 1, 8, 8\)") as error:
        build(name).encode(torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(2, 4), (2, 5, 2), (3, 1)])
def test_latents_of_another_size(name, shape):
    with pytest.raises(ValueError, match=r"takes \(B, 3\)") as error:
        build(name).decode(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(3,), ()])
def test_latents_without_a_batch(shape):
    with pytest.raises(ValueError, match=r"takes \(B, 3\)"):
        build("mlp").decode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 3), (5, 2, 3), (5, 1, 3), (5, 4, 1), (5, 4, 4)])
def test_latent_noise_of_another_shape(shape):
    """Some of these broadcast: without L, the objectives' means over samples would be over images."""
    vae = build("mlp")
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        vae(images(vae), latent_noise=torch.zeros(shape))


# presets and configs


def preset(name):
    channels, resolution = PRESETS[name]
    torch.manual_seed(0)
    return build_vae(load_vae_config(name), resolution, channels).eval()


def parameters(vae):
    return sum(p.numel() for p in vae.parameters())


def layers(network):
    return [module.out_features for module in network if isinstance(module, torch.nn.Linear)]


def test_every_preset_is_tested():
    assert set(PRESETS) == set(VAE_PRESETS)


@pytest.mark.parametrize("name", PRESETS)
@torch.no_grad()
def test_presets_encode_and_decode(name):
    vae = preset(name)
    assert type(vae).__name__ == VAE_PRESETS[name]["_class_name"]
    x = images(vae, 2).sign()
    assert x.shape[1:] == (PRESETS[name][0], PRESETS[name][1], PRESETS[name][1])
    q = vae.encode(x).latent_dist
    # four halvings hardly tell noise from noise before they have learnt to
    assert not torch.allclose(q.mean[0], q.mean[1], rtol=1e-4, atol=1e-6)
    log_p = vae.likelihood.log_prob(x, vae.decode_outputs(q.sample(seeded(0))))
    assert log_p.shape == (2,)
    assert log_p.isfinite().all()


def test_mnist_grey_has_the_size_of_the_course_project():
    vae = preset("mnist-grey")
    assert parameters(vae) <= 400_000
    assert vae.config.latent_size == 32
    assert not vae.likelihood.discrete


def test_mnist_50d_has_the_sizes_of_burda_et_al():
    vae = preset("mnist-50d")
    assert layers(vae.encoder) == [200, 200, 2 * 50]
    assert layers(vae.decoder) == [200, 200, 784]
    assert vae.config.likelihood == "bernoulli"


def test_mnist_2d_has_two_latents():
    assert preset("mnist-2d").config.latent_size == 2


def test_presets_are_not_changed_by_building():
    before = json.dumps(VAE_PRESETS)
    config = load_vae_config("mnist-50d")
    build_vae(config, 8, 3)
    config["latent_size"] = 7
    assert json.dumps(VAE_PRESETS) == before


def test_config_from_a_json_file(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"_class_name": "ConvVAE", "block_out_channels": [4], "sample_size": 28}))
    vae = build_vae(load_vae_config(str(path)), 6, 3)
    assert type(vae) is ConvVAE
    assert (vae.config.sample_size, vae.config.in_channels) == (6, 3)  # the images', not the file's
    assert vae.config.block_out_channels == [4]


@pytest.mark.parametrize("subfolder", ["", "vae"])
@pytest.mark.parametrize("name", MODELS)
def test_config_from_the_folder_of_a_model_or_a_pipeline(tmp_path, name, subfolder):
    saved = build(name, likelihood="gaussian")
    saved.save_pretrained(tmp_path / subfolder)
    vae = build_vae(load_vae_config(str(tmp_path)), 8, 1)
    assert type(vae) is type(saved)
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (saved, vae)]
    assert shapes[0] == shapes[1]


def small_conv(padding_mode):
    """With weights of size 0.3."""
    torch.manual_seed(0)
    vae = ConvVAE(3, 16, 3, (4, 6), likelihood="discretized_logistic_rgb", padding_mode=padding_mode)
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return vae


@torch.no_grad()
def test_replicated_borders_leave_no_frame():
    """Features that are the same everywhere become an image that is, to the outermost pixel: zeros beyond the border are seen."""
    flat = {}
    for padding_mode in ("replicate", "zeros"):
        hidden = small_conv(padding_mode).decoder[2:](torch.randn(1, 6, 1, 1, generator=seeded(0)).expand(1, 6, 4, 4))
        assert hidden.shape == (1, 9, 16, 16)
        flat[padding_mode] = hidden.std((-2, -1)).max().item()
    assert flat["replicate"] < 1e-5  # float32 sums of some 50 terms
    assert flat["zeros"] > 0.1


@torch.no_grad()
def test_replicated_borders_in_the_encoder():
    vae = small_conv("replicate")
    features = vae.encoder[:-2](torch.full((1, 3, 16, 16), 0.3))
    assert features.std((-2, -1)).max() < 1e-5
    assert small_conv("zeros").encoder[:-2](torch.full((1, 3, 16, 16), 0.3)).std((-2, -1)).max() > 0.01


def test_padding_mode_of_another_name():
    with pytest.raises(ValueError, match=r"^padding_mode='reflect': choose one of zeros, replicate$"):
        ConvVAE(padding_mode="reflect")


@torch.no_grad()
def test_models_of_before_the_padding_mode_are_the_same_to_the_last_bit(tmp_path):
    """By the layers of then, written out; a config without the key means zeros."""
    vae = build("conv", likelihood="discretized_logistic")
    vae.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("padding_mode") == "zeros"
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = ConvVAE.from_pretrained(tmp_path)
    z, act = torch.randn(5, 3, generator=seeded(1)), torch.nn.functional.silu
    hidden, layers = z, iter([m for m in vae.decoder if list(m.parameters())])
    first = next(layers)
    hidden = act(torch.nn.functional.linear(hidden, first.weight, first.bias).unflatten(1, (-1, *_first_map(vae))))
    *middle, last = layers
    for layer in middle:
        options = {"stride": 2, "padding": 1} if isinstance(layer, torch.nn.ConvTranspose2d) else {"padding": 1}
        name = "conv_transpose2d" if isinstance(layer, torch.nn.ConvTranspose2d) else "conv2d"
        hidden = act(getattr(torch.nn.functional, name)(hidden, layer.weight, layer.bias, **options))
    expected = torch.nn.functional.conv2d(hidden, last.weight, last.bias, padding=1)
    assert again.decode_outputs(z).equal(expected)


def _first_map(vae):
    side = vae.config.sample_size // 2 ** len(vae.config.block_out_channels)
    return side, side


def test_unknown_name(offline):
    with pytest.raises(HfgenError, match=r"'no-such-model' is no preset \(digits, mnist-2d, mnist-50d") as error:
        load_vae_config("no-such-model")
    assert one_line(error)


def test_missing_file():
    with pytest.raises(HfgenError, match=r"model config missing\.json: .*No such file") as error:
        load_vae_config("missing.json")
    assert one_line(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds a list: pass an object"),
        ("3", "holds a int: pass an object"),
        ("{", "Expecting property name .*; pass a JSON file"),
        ("{}", "has _class_name=None: use one of MLPVAE, ConvVAE"),
        ('{"_class_name": "UNet2DModel"}', "has _class_name='UNet2DModel': use one of MLPVAE, ConvVAE"),
        ('{"_class_name": 3}', "has _class_name=3: use one of"),
        ('{"_class_name": ["MLPVAE"]}', r"has _class_name=\['MLPVAE'\]: use one of"),
        ('{"_class_name": {}}', r"has _class_name=\{\}: use one of"),
    ],
)
def test_file_that_holds_no_config(tmp_path, text, message):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(HfgenError, match=rf"model config {path}.*{message}") as error:
        load_vae_config(str(path))
    assert one_line(error)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "MLPVAE",
            {"widths": 3, "blocks": 2},
            "model config has blocks, widths: MLPVAE takes no such argument; remove",
        ),
        ("MLPVAE", {"block_out_channels": [4]}, "model config has block_out_channels: MLPVAE takes no such argument"),
        ("ConvVAE", {"hidden_sizes": [4]}, "model config has hidden_sizes: ConvVAE takes no such argument"),
        ("MLPVAE", {"likelihood": "beta"}, "MLPVAE cannot be built .*likelihood='beta'"),
        ("MLPVAE", {"likelihood": ["beta"]}, "MLPVAE cannot be built"),
        ("MLPVAE", {"activation": "sine"}, "MLPVAE cannot be built .*activation='sine'"),
        ("MLPVAE", {"latent_size": 0}, "MLPVAE cannot be built .*latent_size=0"),
        ("MLPVAE", {"latent_size": "two"}, "MLPVAE cannot be built"),
        ("MLPVAE", {"latent_size": None}, "MLPVAE cannot be built"),
        ("MLPVAE", {"hidden_sizes": 500}, "MLPVAE cannot be built"),
        ("MLPVAE", {"hidden_sizes": ["a"]}, "MLPVAE cannot be built"),
        ("MLPVAE", {"hidden_sizes": [2.5]}, "MLPVAE cannot be built"),
        ("MLPVAE", {"hidden_sizes": [-1]}, "MLPVAE cannot be built"),
        (
            "MLPVAE",
            {"hidden_sizes": [10**30]},
            "MLPVAE cannot be built",
        ),  # torch's own message has a line per stack frame
        (
            "MLPVAE",
            {"likelihood": "gaussian", "gaussian_variance": -1},
            "MLPVAE cannot be built .*gaussian_variance=-1",
        ),
        ("MLPVAE", {"likelihood": "gaussian", "gaussian_variance": "x"}, "MLPVAE cannot be built"),
        ("ConvVAE", {"block_out_channels": [4, 4, 4, 4]}, "ConvVAE cannot be built .*sample_size=8 .*divisible by 16"),
        ("ConvVAE", {"block_out_channels": 32}, "ConvVAE cannot be built"),
    ],
)
def test_config_that_does_not_build(kind, change, message):
    with pytest.raises(HfgenError, match=message) as error:
        build_vae({"_class_name": kind, **change}, 8, 1)
    assert one_line(error)


def test_latent_bound_keeps_q_near_the_prior():
    """Images far from any that it was trained on: weights of a hundred times their size stand for them."""
    torch.manual_seed(0)
    free = MLPVAE(1, 4, 3, (5,))
    bound = MLPVAE(1, 4, 3, (5,), latent_bound=2.0)
    bound.load_state_dict(free.state_dict())
    x = torch.rand(6, 1, 4, 4) * 2 - 1
    mean = free.encode(x).latent_dist.mean
    torch.testing.assert_close(bound.encode(x).latent_dist.mean, 2 * torch.tanh(mean / 2))
    torch.testing.assert_close(bound.encode(x).latent_dist.logvar, free.encode(x).latent_dist.logvar)
    with torch.no_grad():
        bound.encoder[-1].weight.mul_(100)
        bound.encoder[-1].bias.fill_(30)
    posterior = bound.encode(x).latent_dist
    assert posterior.mean.abs().max() <= 2
    assert posterior.logvar.max() == 1
    # 3 latents, each at most (4 + e - 1 + 200) / 2: the log-variance's lower end is not bounded
    assert posterior.kl().isfinite().all()


@pytest.mark.parametrize("value", [0, -1.0, float("inf")])
def test_latent_bound_out_of_range(value):
    with pytest.raises(ValueError, match=f"^latent_bound={value}: it must be greater than 0, or None for no bound$"):
        MLPVAE(latent_bound=value)
