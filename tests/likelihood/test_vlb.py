"""The bound over a set of images: every t, and sampled t against numerical integration."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput

from hfgen.core.errors import HfgenError
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import Resumable
from hfgen.data.evaluation_images import load_evaluation_images
from hfgen.data.loading import ImagesInMemory
from hfgen.likelihood import Estimate, exact_vlb, sampled_vlb
from hfgen.likelihood import sampled as sampled_module
from hfgen.likelihood.sampled import _History, _rows, stratified_times
from hfgen.likelihood.vlb import prior_kl
from hfgen.schedulers import LinearDDPMScheduler, reverse_process

EVERY_FIELD = ("total", "prior", "diffusion", "reconstruction")


class Predictor:
    """In place of a UNet: a function of (x_t, timesteps), in float64; counts the images that it is given."""

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, function):
        self.function, self.calls, self.largest = function, 0, 0

    def eval(self):
        return self

    def __call__(self, x_t, timesteps):
        self.calls += len(x_t)
        self.largest = max(self.largest, len(x_t))
        return UNet2DOutput(sample=self.function(x_t, timesteps))


def crooked(x_t, timesteps):
    return 0.8 * torch.tanh(x_t + 0.2) * (1 + 0.1 * torch.cos(timesteps.double())).view(-1, 1, 1, 1)


def nothing(x_t, timesteps):
    return torch.zeros_like(x_t)


class FallsOver(Predictor):
    """Ends with an interrupt once it has seen `after` images."""

    def __init__(self, function, after):
        super().__init__(function)
        self.after = after

    def __call__(self, x_t, timesteps):
        if self.calls + len(x_t) > self.after:
            raise KeyboardInterrupt
        return super().__call__(x_t, timesteps)


class SmallDevice(Predictor):
    """Holds `room` images at once."""

    def __init__(self, function, room):
        super().__init__(function)
        self.room = room

    def __call__(self, x_t, timesteps):
        if len(x_t) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(x_t, timesteps)


def pictures(count, shape=(1, 2, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ImagesInMemory(torch.randint(0, 256, (count, *shape), generator=generator).to(torch.uint8))


def process_of(steps, **config):
    return reverse_process(DDPMScheduler(steps, 0.02, 0.6, **config))


def in_range(images):
    return images.images.double() / 127.5 - 1


def assert_same(a, b, rtol=1e-10):
    """Sums in another order, and x_0 in float32 on its way: but for that equal."""
    for name in EVERY_FIELD:
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=rtol, nan_ok=True), name
    torch.testing.assert_close(a.steps, b.steps, rtol=rtol, atol=rtol, equal_nan=True)
    torch.testing.assert_close(a.steps_error, b.steps_error, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert torch.equal(a.draws, b.draws)


def assert_identical(a, b):
    for name in EVERY_FIELD:
        assert getattr(a, name) == getattr(b, name), name
    assert torch.equal(a.steps, b.steps)
    assert torch.equal(a.draws, b.draws)


class TestExact:
    STEPS = 6

    def test_a_double_loop(self):
        images, process, model = pictures(9), process_of(self.STEPS), Predictor(crooked)
        bound = exact_vlb(model, process, images, seed=3)
        x_0 = in_range(images)
        terms = torch.empty(9, self.STEPS, dtype=torch.float64)
        for i in range(9):
            generator = seeded("cpu", 3, Stream.EVALUATION, i)
            for t in range(self.STEPS):
                noise = torch.randn(1, 2, 2, generator=generator)
                terms[i, t] = process.terms(model, x_0[i : i + 1], noise[None], torch.tensor([t])).item()
        prior = process.forward.prior_kl(x_0)
        close = {"rtol": 1e-6, "atol": 1e-9}
        torch.testing.assert_close(bound.steps, terms.mean(0), **close)
        torch.testing.assert_close(bound.steps_error, terms.std(0) / 3, **close)
        for found, values in (
            (bound.reconstruction, terms[:, 0]),
            (bound.diffusion, terms[:, 1:].sum(1)),
            (bound.prior, prior),
            (bound.total, terms.sum(1) + prior),
        ):
            assert found.mean == pytest.approx(values.mean().item(), rel=1e-6)
            assert found.standard_error == pytest.approx(values.std().item() / 3, rel=1e-6)
        assert bound.exact
        assert (bound.images, bound.evaluations, bound.dimensions) == (9, 54, 4)
        assert bound.draws.tolist() == [9] * self.STEPS

    @pytest.mark.parametrize("batch_size", [1, 4, 5, 6, 7, 13, 1000])
    def test_any_batch_size(self, batch_size):
        images, process = pictures(7), process_of(self.STEPS)
        model = Predictor(crooked)
        assert_same(exact_vlb(model, process, images, batch_size=batch_size), exact_vlb(model, process, images), 1e-6)

    def test_batches_are_filled_and_no_larger(self):
        for batch_size, largest in ((4, 4), (6, 6), (13, 12)):
            model = Predictor(crooked)
            exact_vlb(model, process_of(self.STEPS), pictures(7), batch_size=batch_size)
            assert model.largest == largest
            assert model.calls == 7 * self.STEPS

    def test_other_seeds_are_other_noise(self):
        images, process, model = pictures(8), process_of(self.STEPS), Predictor(crooked)
        assert len({exact_vlb(model, process, images, seed=seed).total.mean for seed in range(4)}) == 4

    def test_errors_that_are_known(self):
        """A network that puts out 0 for eps: ||mu~ - mu||^2 is chi-square, whose variance is 2 D; of 3,000 images
        the deviation is known to 1 / sqrt(2 * 3000) = 1.3 %, more by the chi-square's kurtosis."""
        process, images = process_of(8), pictures(3000)
        bound = exact_vlb(Predictor(nothing), process, images, batch_size=4000)
        ratio = (
            process.forward.snr_weight() * (1 - process.forward.alpha_bar[1:]) / process.forward.alpha_bar[1:]
        ).numpy()
        assert bound.diffusion.mean == pytest.approx(4 * ratio.sum(), rel=0.02)
        assert bound.diffusion.standard_error == pytest.approx(math.sqrt(2 * 4 * (ratio**2).sum() / 3000), rel=0.08)
        expected = np.sqrt(2 * 4 / 3000) * ratio
        np.testing.assert_allclose(bound.steps_error[1:].numpy(), expected, rtol=0.12)

    def test_without_noise_the_error_is_that_of_the_images(self):
        """A network that puts out 0 for x_0: L_{t-1} is ||x_0||^2 times a number, whatever the noise."""
        process, images = process_of(8, prediction_type="sample"), pictures(50)
        bound = exact_vlb(Predictor(nothing), process, images)
        square = in_range(images).square().flatten(1).sum(1) * process.forward.snr_weight().sum()
        assert bound.diffusion.mean == pytest.approx(square.mean().item(), rel=1e-6)
        assert bound.diffusion.standard_error == pytest.approx(square.std().item() / 50**0.5, rel=1e-6)

    @pytest.mark.parametrize("batch_size", [2, 6, 14])
    def test_broken_off_and_gone_on(self, batch_size, tmp_path, monkeypatch):
        monkeypatch.setattr("hfgen.likelihood.exact.SAVE_SECONDS", -1)
        images, process = pictures(11), process_of(self.STEPS)
        whole = Predictor(crooked)
        expected = exact_vlb(whole, process, images, seed=5, batch_size=batch_size)

        def run(model):
            return exact_vlb(
                model,
                process,
                images,
                seed=5,
                batch_size=batch_size,
                resumable=Resumable(tmp_path / "work", {"seed": 5}),
            )

        first = FallsOver(crooked, 40)
        with pytest.raises(KeyboardInterrupt):
            run(first)
        second = Predictor(crooked)
        assert_identical(run(second), expected)
        assert whole.calls == 66
        # what is lost is less than a group of images
        assert second.calls <= 66 - 40 + max(batch_size, self.STEPS) * 2
        third = Predictor(crooked)
        assert_identical(run(third), expected)
        assert third.calls == 0

    def test_a_device_with_little_memory(self):
        images, process = pictures(7), process_of(self.STEPS)
        small = SmallDevice(crooked, 5)
        found = exact_vlb(small, process, images, batch_size=64)
        assert_same(found, exact_vlb(Predictor(crooked), process, images), 1e-6)
        # 42 images at once do not fit, nor do 21 and 10: what fits is found by halving
        assert small.largest == 5

    def test_a_device_that_holds_no_image(self):
        with pytest.raises(HfgenError, match="a single image does not fit on cpu: use a larger device"):
            exact_vlb(SmallDevice(crooked, 0), process_of(3), pictures(2))

    def test_one_image_has_no_standard_error(self):
        bound = exact_vlb(Predictor(crooked), process_of(3), pictures(1))
        assert math.isfinite(bound.total.mean)
        assert math.isnan(bound.total.standard_error)
        assert bound.steps_error.isnan().all()

    def test_colours(self):
        images, process = pictures(4, (3, 2, 2)), process_of(3)
        bound = exact_vlb(Predictor(crooked), process, images)
        assert bound.dimensions == 12
        in_bits = bound.bits_per_dim(bound.total)
        assert in_bits.mean == pytest.approx(bound.total.mean / (12 * math.log(2)), rel=1e-12)
        assert in_bits.standard_error == pytest.approx(bound.total.standard_error / (12 * math.log(2)), rel=1e-12)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_the_images_keep_their_256_values_for_a_network_of_few_digits(self, dtype):
        """bfloat16 near 1 moves a value by half a bin."""
        seen = []
        model = Predictor(lambda x_t, t: seen.append(x_t.dtype) or torch.zeros_like(x_t))
        process, images = process_of(3, prediction_type="sample"), pictures(20)
        expected = exact_vlb(model, process, images)
        model.dtype = dtype
        assert_identical(exact_vlb(model, process, images), expected)
        assert seen[-1] == dtype


def truth(process, images):
    """The means of `crooked`'s terms without sampling: each (image, t) integrated over its noise by Gauss-Hermite quadrature,
    pixel by pixel, as `crooked` takes them."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(60))
    pixels = in_range(images).view(-1, 1, 1, 1).repeat_interleave(60, 0)
    noise = nodes.repeat(len(pixels) // 60).view(-1, 1, 1, 1)
    terms = [
        process.terms(Predictor(crooked), pixels, noise, torch.full((len(pixels),), t)).view(-1, 60)
        @ (weights / weights.sum())
        for t in range(process.num_steps)
    ]
    return torch.stack(terms).sum(1) / len(images)


def estimates(seeds, process, images, evaluations=100, function=crooked):
    bounds = [sampled_vlb(Predictor(function), process, images, evaluations=evaluations, seed=seed) for seed in seeds]
    return {
        name: torch.tensor([getattr(bound, name) for bound in bounds], dtype=torch.float64)
        for name in ("total", "diffusion", "reconstruction")
    }


def z_score(values, expected):
    return ((values.mean() - expected) / (values.std() / len(values) ** 0.5)).item()


THREE = pictures(3, (1, 4, 4))


@pytest.fixture(scope="module")
def many():
    """By 150 seeds, with 5 evaluations in each of the 20 rounds, fewer than there are t: bias would be at its largest."""
    process = process_of(12)
    return process, estimates(range(150), process, THREE)


@pytest.mark.slow
class TestSampled:
    def test_unbiased(self, many):
        process, found = many
        terms = truth(process, THREE)
        expected = {
            "reconstruction": terms[0],
            "diffusion": terms[1:].sum(),
            "total": terms.sum() + prior_kl(process.forward, THREE).mean(),
        }
        for name, value in expected.items():
            assert abs(z_score(found[name][:, 0], value)) < 4, name
        spread = found["total"][:, 0].std() / found["total"][:, 0].mean()
        assert spread < 0.15, "too noisy for the test to see a bias of 5 %"

    def test_a_biased_estimate_would_show(self, monkeypatch):
        """Times drawn uniformly, but weighted as if they came from the history."""
        draw = sampled_module.stratified_times
        uniform = torch.full((12,), 1 / 12, dtype=torch.float64)
        monkeypatch.setattr(sampled_module, "stratified_times", lambda p, *rest: draw(uniform, *rest))
        process = process_of(12)
        found = estimates(range(30), process, THREE)["diffusion"][:, 0]
        assert abs(z_score(found, truth(process, THREE)[1:].sum())) > 8

    def test_the_stated_error_is_the_spread_over_seeds(self, many):
        """Mean of the squares of the stated errors against the variance over seeds, whose root is known to 6 % and more for its
        tails. The images are the same for all seeds: with more evaluations than images the stated error is that
        of the mean over these images."""
        _, found = many
        for name, values in found.items():
            ratio = values[:, 1].square().mean().sqrt() / values[:, 0].std()
            assert 0.77 < ratio < 1.3, name

    def test_agrees_with_every_t(self):
        """On many pixels and images, within both errors."""
        images, process = pictures(40, (1, 4, 4)), process_of(30)
        exact = exact_vlb(Predictor(crooked), process, images)
        found = sampled_vlb(Predictor(crooked), process, images, evaluations=6000)
        for name in ("total", "diffusion", "reconstruction"):
            a, b = getattr(exact, name), getattr(found, name)
            assert abs(a.mean - b.mean) < 4 * math.hypot(a.standard_error, b.standard_error), name
            assert b.standard_error < 0.03 * b.mean, name
        assert found.prior == exact.prior
        assert not found.exact
        seen = found.draws > 1
        gap = (found.steps - exact.steps)[seen].abs()
        assert (gap < 5 * torch.hypot(found.steps_error, exact.steps_error)[seen]).all()
        assert found.draws.sum() == found.evaluations == 6000
        assert found.dimensions == 16

    def test_the_first_term_is_drawn_as_often_as_it_counts(self):
        """L_0 is most of this bound, and 1 of 200 steps."""
        images = pictures(20)
        process = reverse_process(DDPMScheduler(200))
        bound = sampled_vlb(Predictor(nothing), process, images, evaluations=2000)
        share = bound.reconstruction.mean / bound.total.mean
        assert bound.draws[0] > 0.1 * share * 2000
        assert bound.draws[0] > 20 * bound.draws[100]

    def test_importance_sampling_beats_uniform_times(self, monkeypatch):
        """Of 200 terms the first few are nearly all; the same strata with equal mass for each t."""
        images, process = pictures(5), reverse_process(DDPMScheduler(200))
        by_history = estimates(range(16), process, images, 400)["total"]
        monkeypatch.setattr(_History, "probability", lambda self: torch.full((200,), 1 / 200, dtype=torch.float64))
        uniform = estimates(range(16), process, images, 400)["total"]
        # 20 evaluations a round are few to learn 200 terms from; a deviation of 16 values is known to 18 %
        assert by_history[:, 0].std() < 0.5 * uniform[:, 0].std()
        assert by_history[:, 1].mean() < 0.5 * uniform[:, 1].mean()

    def test_more_evaluations_lower_the_error(self):
        images, process = pictures(10), process_of(20)
        few, many = (
            torch.tensor(
                [sampled_vlb(Predictor(crooked), process, images, evaluations=n, seed=s).total[1] for s in range(4)]
            ).mean()
            for n in (200, 3200)
        )
        # by a factor of 4, and more while the history is short; a round's spread is known to 16 %, of 4 of them to 8 %
        assert 2.8 < few / many < 9

    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_any_batch_size(self, batch_size):
        images, process = pictures(7), process_of(9)
        assert_same(
            sampled_vlb(Predictor(crooked), process, images, evaluations=300, seed=4, batch_size=batch_size),
            sampled_vlb(Predictor(crooked), process, images, evaluations=300, seed=4),
            1e-9,
        )

    def test_other_seeds_are_other_draws(self):
        images, process = pictures(7), process_of(9)
        totals = {
            sampled_vlb(Predictor(crooked), process, images, evaluations=100, seed=seed).total.mean for seed in range(5)
        }
        assert len(totals) == 5

    @pytest.mark.parametrize("after", [3, 16, 200, 290])
    def test_broken_off_and_gone_on(self, after, tmp_path):
        images, process = pictures(7), process_of(9)
        expected = sampled_vlb(Predictor(crooked), process, images, evaluations=300, seed=2)

        def run(model):
            return sampled_vlb(
                model, process, images, evaluations=300, seed=2, resumable=Resumable(tmp_path / "work", {"seed": 2})
            )

        with pytest.raises(KeyboardInterrupt):
            run(FallsOver(crooked, after))
        second = Predictor(crooked)
        assert_identical(run(second), expected)
        # a round is 15 evaluations
        assert second.calls == 300 - after // 15 * 15

    def test_a_device_with_little_memory(self):
        images, process = pictures(7), process_of(9)
        small = SmallDevice(crooked, 3)
        found = sampled_vlb(small, process, images, evaluations=500)
        assert_same(found, sampled_vlb(Predictor(crooked), process, images, evaluations=500), 1e-9)
        assert small.largest == 3

    @pytest.mark.parametrize(("count", "evaluations"), [(1, 100), (2, 1000), (260, 100), (33, 101)])
    def test_any_number_of_images(self, count, evaluations):
        model, images = Predictor(crooked), pictures(count)
        bound = sampled_vlb(model, process_of(9), images, evaluations=evaluations)
        assert model.calls == bound.evaluations == bound.draws.sum() == evaluations
        assert bound.images == count
        assert math.isfinite(bound.total.mean)

    def test_few_evaluations_are_refused(self):
        with pytest.raises(HfgenError, match=r"^evaluations=99: use 100 or more"):
            sampled_vlb(Predictor(crooked), process_of(3), pictures(2), evaluations=99)


@pytest.mark.parametrize("bound", [exact_vlb, sampled_vlb])
def test_no_images(bound):
    with pytest.raises(HfgenError, match=r"^there are no images to evaluate"):
        bound(Predictor(crooked), process_of(3), ImagesInMemory(torch.empty(0, 1, 2, 2, dtype=torch.uint8)))


PROBABILITY = torch.tensor([0.4, 0.002, 0.25, 0.1, 0.248], dtype=torch.float64)


def test_one_time_in_each_stratum():
    """The times of strata k/n..(k+1)/n of p's cumulative sum: those at t's own mass differ from n p(t) by less than 2."""
    for count, seed in itertools.product((1, 2, 7, 100, 1001), range(20)):
        times = stratified_times(PROBABILITY, count, torch.Generator().manual_seed(seed))
        assert times.shape == (count,)
        edges = torch.cat([torch.zeros(1), PROBABILITY.cumsum(0)]).double()
        for k, t in enumerate(times.sort().values.tolist()):
            assert edges[t] * count < k + 1 + 1e-9
            assert edges[t + 1] * count > k - 1e-9
        assert ((torch.bincount(times, minlength=5) - count * PROBABILITY).abs() < 2).all()


def test_a_place_in_the_order_has_the_right_distribution():
    """Of 6,000 draws of 3 times, the first: within 4.5 standard errors of p, for each t."""
    generator = torch.Generator().manual_seed(0)
    first = torch.tensor([stratified_times(PROBABILITY, 3, generator)[0] for _ in range(6000)])
    found = torch.bincount(first, minlength=5) / 6000
    error = (PROBABILITY * (1 - PROBABILITY) / 6000).sqrt()
    assert ((found - PROBABILITY).abs() < 4.5 * error).all()


@pytest.mark.parametrize("count", [1, 3, 50, 1000])
def test_images_are_taken_in_turn(count):
    rows = torch.cat([_rows(count, first=first, end=first + 37, seed=0) for first in range(0, 370, 37)])
    taken = torch.bincount(rows, minlength=count)
    assert taken.max() - taken.min() <= 1
    assert taken.sum() == 370
    for cycle in rows.split(count):
        assert len(cycle.unique()) == len(cycle)
    if count > 3:
        assert not torch.equal(rows[:count], torch.arange(len(rows[:count])))
        assert not torch.equal(rows, torch.cat([_rows(count, first=0, end=370, seed=1)]))


def test_every_time_keeps_a_share_of_the_draws():
    """However small its terms have been."""
    history = _History(50, Resumable(None))
    first = history.probability()
    assert first.sum().item() == pytest.approx(1)
    terms = torch.zeros(200, dtype=torch.float64)
    timesteps = stratified_times(first, 200, torch.Generator().manual_seed(0))
    terms[timesteps == 3] = 5.0
    history.add(timesteps, terms, first)
    second = history.probability()
    assert second.sum().item() == pytest.approx(1)
    assert (second >= 0.1 * first - 1e-12).all()
    assert second.argmax() == 3
    assert second[3] > 0.5


def test_bits_per_dimension():
    bound = exact_vlb(Predictor(crooked), process_of(3), pictures(2, (1, 1, 1)))
    assert bound.bits_per_dim(Estimate(math.log(2), 2 * math.log(2))) == pytest.approx((1.0, 2.0))


def test_the_prior_term_on_mnist(mnist_path):
    images = load_evaluation_images(
        mnist_path, "test", shape=(1, 28, 28), device=torch.device("cpu"), max_images=1000
    ).images
    nats = prior_kl(LinearDDPMScheduler().process, images).mean().item()
    assert nats / (784 * math.log(2)) == pytest.approx(2.7e-5, abs=0.05e-5)


@pytest.mark.parametrize("bound", [exact_vlb, sampled_vlb])
def test_a_network_of_other_channels_is_refused(bound):
    process = process_of(3, variance_type="learned_range")
    with pytest.raises(HfgenError, match=r"puts out 1 channels .*'learned_range' needs 2: set") as caught:
        bound(Predictor(crooked), process, pictures(2))
    assert "\n" not in str(caught.value)
