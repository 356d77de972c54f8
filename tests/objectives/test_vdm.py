"""The training loss of a variational diffusion model against closed forms, quadrature and automatic differentiation."""

import math

import pytest
import torch

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.models.modeling_hfgen_vdm import NoiseSchedule
from hfgen.objectives.vdm import VDMLoss, decoder_reach
from hfgen.process.variational import bin_centres, decoder_nats, diffuse, noise_error, prior_nats

DIMENSIONS = 16


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)


def linear(z, gamma, return_dict=True):
    """The optimal epsilon of f ~ N(0, I): sigma z."""
    return (torch.sigmoid(gamma).sqrt().view(-1, 1, 1, 1).to(z) * z,)


def rough(z, gamma, return_dict=True):
    """A network whose error changes much over t."""
    return (torch.tanh(2 * z) * (0.3 + torch.sigmoid(gamma + 4)).view(-1, 1, 1, 1).to(z),)


def evaluate(objective, count, model=rough, seed=0, **changes):
    x = to_model_range(images(count, seed))
    generator = torch.Generator().manual_seed(seed + 1)
    numbers = {
        "times": (torch.arange(count) + 0.5) / count,
        "noise": torch.randn(x.shape, generator=generator),
        "decoder_noise": torch.randn(x.shape, generator=generator),
        "cond": {},
    }
    return objective(model, x, **{**numbers, **changes})


def loss_of(schedule, num_steps=None):
    return VDMLoss(schedule=schedule, prediction_type="epsilon", num_steps=num_steps, reach=8)


def bent(kind="network", seed=1):
    torch.manual_seed(seed)
    schedule = NoiseSchedule(kind, features=32)
    if kind == "network":
        schedule.l3.data += torch.rand(32) * 3 * (schedule.l2_bias > 0)
    return schedule


def test_pixels_become_bin_centres_exactly():
    values = torch.arange(256, dtype=torch.uint8)
    f = bin_centres(values)
    assert torch.equal(f.double(), 2 * (values.double() + 0.5) / 256 - 1)


def test_prior_is_the_divergence_of_two_gaussians():
    f, gamma = bin_centres(images(3)).double(), torch.tensor(1.5, dtype=torch.float64)
    q = torch.distributions.Normal(torch.sigmoid(-gamma).sqrt() * f, torch.sigmoid(gamma).sqrt())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros_like(f), 1.0))
    torch.testing.assert_close(prior_nats(f, gamma), kl.flatten(1).sum(1))


@pytest.mark.parametrize("gamma_0", [-13.3, -8.0, -3.0])
def test_reconstruction_is_the_softmax_written_out(gamma_0):
    f, gamma = bin_centres(images(2)).double(), torch.tensor(gamma_0, dtype=torch.float64)
    noise = torch.randn(f.shape, dtype=torch.float64)
    scaled = f + (gamma / 2).exp() * noise
    centres = bin_centres(torch.arange(256).double())
    logits = -0.5 * ((scaled[..., None] - centres) * (-gamma / 2).exp()).square()
    places = ((f * 128) + 127.5).round().long()[..., None]
    expected = -logits.log_softmax(-1).gather(-1, places).flatten(1).sum(1)
    torch.testing.assert_close(decoder_nats(f, noise, gamma), expected, rtol=1e-9, atol=1e-9)
    if gamma_0 <= -8:  # near bins alone are all that count there
        torch.testing.assert_close(decoder_nats(f, noise, gamma, reach=32), expected, rtol=1e-9, atol=1e-9)
    narrow = decoder_nats(f.float(), noise.float(), gamma.float())
    torch.testing.assert_close(narrow.double(), expected, rtol=1e-5, atol=1e-5)


def test_an_error_of_the_noise_is_one_of_v():
    f, noise = (torch.randn(5, 1, 4, 4, dtype=torch.float64) for _ in range(2))
    gamma = torch.linspace(-12, 4, 5, dtype=torch.float64)
    eps_hat = torch.randn_like(noise)
    alpha, sigma = (torch.sigmoid(s * gamma).sqrt().view(-1, 1, 1, 1) for s in (-1, 1))
    z = diffuse(f, noise, gamma)
    v_hat = (eps_hat - sigma * z) / alpha
    one, other = (
        noise_error(eps_hat, f, noise, gamma, "epsilon"),
        noise_error(v_hat, f, noise, gamma, "v_prediction"),
    )
    torch.testing.assert_close(one, other)


def test_the_loss_is_its_terms_and_each_row_its_own():
    terms = evaluate(loss_of(bent()), 6)
    assert {name: tuple(term.shape) for name, term in terms.items()} == dict.fromkeys(
        ("loss", "prior", "reconstruction", "diffusion"), (6,)
    )
    torch.testing.assert_close(terms["loss"], terms["prior"] + terms["reconstruction"] + terms["diffusion"])


def test_diffusion_of_a_gaussian_is_the_integral():
    """Of f ~ N(0, I) the optimal error is alpha^2 D: 1/2 int alpha^2 dgamma = 1/2 ln((1 + e^-g0) / (1 + e^-g1)) D."""
    schedule = bent()
    objective = loss_of(schedule)
    low, high = (end.item() for end in schedule.ends())
    count = 4000
    generator = torch.Generator().manual_seed(3)
    f = torch.randn(count, 1, 4, 4, generator=generator)
    noise = torch.randn(f.shape, generator=generator)
    times = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    ends = [torch.tensor(end, dtype=torch.float64) for end in (low, high)]
    found = objective._diffusion(linear, f, noise, times, *ends, {})
    expected = DIMENSIONS / 2 * (math.log1p(math.exp(-low)) - math.log1p(math.exp(-high)))
    error = found.std().item() / math.sqrt(count)
    assert found.mean().item() == pytest.approx(expected, abs=4 * error)
    assert error < 0.03 * expected


def test_many_steps_are_continuous_time():
    schedule, count = bent(), 512
    continuous = evaluate(loss_of(schedule), count)["diffusion"].mean()
    gaps = []
    for steps in (16, 64, 256, 4096):
        discrete = evaluate(loss_of(schedule, num_steps=steps), count)
        gaps.append(abs(discrete["diffusion"].mean() - continuous).item() / continuous.item())
    assert gaps[0] > gaps[-1]
    assert gaps[-1] < 0.01


def test_the_shape_between_the_ends_does_not_move_the_bound():
    found = []
    for seed in (1, 2, 3):
        terms = evaluate(loss_of(bent(seed=seed)), 3000)["diffusion"]
        found.append((terms.mean().item(), terms.std().item() / math.sqrt(len(terms))))
    line = evaluate(loss_of(NoiseSchedule("fixed")), 3000)["diffusion"]
    for mean, error in found:
        assert mean == pytest.approx(line.mean().item(), abs=4 * error + 4 * line.std().item() / math.sqrt(len(line)))


def test_shape_and_ends_get_gradients_of_their_own():
    """The shape that of the mean square, by differentiating that; the ends that of the mean."""
    schedule = bent()
    shape = [schedule.l1, schedule.l2, schedule.l2_bias, schedule.l3]
    objective = loss_of(schedule)
    scale = 1 / (DIMENSIONS * math.log(2))
    found = torch.autograd.grad(evaluate(objective, 9)["loss"].mean() * scale, [*shape, schedule.shift])

    def written_out():
        """The same terms, with no gradient of its own anywhere."""
        f, count = bin_centres(images(9)), 9
        generator = torch.Generator().manual_seed(1)
        noise, decoder_noise = (torch.randn(f.shape, generator=generator) for _ in range(2))
        t = ((torch.arange(count) + 0.5) / count).double()
        gamma = schedule(t)
        output = rough(diffuse(f, noise, gamma), gamma.float())[0]
        density = 0.5 * schedule.rate(t) * (noise - output).double().square().flatten(1).sum(1)
        low, high = schedule.ends()
        return density * scale, (prior_nats(f, high) + decoder_nats(f, decoder_noise, low, reach=8)) * scale

    density, rest = written_out()
    of_square = torch.autograd.grad(density.square().mean(), shape, retain_graph=True)
    of_mean = torch.autograd.grad((density + rest).mean(), schedule.shift)
    for one, other in zip(found, [*of_square, *of_mean], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_of_a_chain_all_get_the_gradient_of_the_bound():
    schedule = bent()
    loss = evaluate(loss_of(schedule, num_steps=8), 9)["diffusion"].mean()
    (found,) = torch.autograd.grad(loss, schedule.l2_bias)
    with torch.no_grad():
        step, direction = 1e-2, found / found.norm()
        values = []
        for sign in (1, -1):
            schedule.l2_bias += sign * step * direction
            terms = evaluate(loss_of(schedule, num_steps=8), 9)
            values.append(terms["diffusion"].double().mean())
            schedule.l2_bias -= sign * step * direction
    assert ((values[0] - values[1]) / (2 * step)).item() == pytest.approx(found.norm().item(), rel=0.02)


def test_training_the_shape_lessens_the_variance_and_leaves_the_bound():
    torch.manual_seed(0)
    schedule = NoiseSchedule("network", features=64)
    objective = loss_of(schedule)
    shape = [schedule.l1, schedule.l2, schedule.l2_bias, schedule.l3]
    optimizer = torch.optim.Adam(shape, lr=0.03)
    before = evaluate(objective, 3000, seed=99)["diffusion"].detach()
    for step in range(150):
        optimizer.zero_grad()
        evaluate(objective, 64, seed=step)["loss"].mean().backward()
        optimizer.step()
    after = evaluate(objective, 3000, seed=99)["diffusion"].detach()
    assert after.var() < 0.6 * before.var()
    error = math.sqrt((before.var() + after.var()) / 3000)
    assert after.mean().item() == pytest.approx(before.mean().item(), abs=4 * error)


def test_gradients_are_finite_under_bf16():
    schedule = bent()
    layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def model(z, gamma, return_dict):
        with torch.autocast("cpu", torch.bfloat16):
            return (z + layer(z),)

    terms = evaluate(loss_of(schedule), 8, model=model)
    assert all(term.dtype == torch.float32 for term in terms.values())
    terms["loss"].mean().backward()
    assert all(p.grad.isfinite().all() for p in [*schedule.parameters(), *layer.parameters()])


def test_bad_input_is_one_line():
    with pytest.raises(HfgenError, match="vdm_num_steps=0"):
        loss_of(bent(), num_steps=0)


def test_a_narrow_decoder_needs_few_bins():
    assert decoder_reach(-13.3) == 11
    assert decoder_reach(-2.0) == 256
