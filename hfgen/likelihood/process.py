"""The forward and the reverse process of a diffusion model, in float64, from any DDPM-like scheduler of diffusers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hfgen.errors import HfgenError
from hfgen.likelihood.gaussian import discretized_gaussian_nll

PREDICTIONS = ("epsilon", "sample", "v_prediction", "mu")
FIXED = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large"}
LEARNED = ("learned", "learned_range")
OTHER_PROCESSES = {
    "FlowMatch": "a flow between noise and data",
    "ScoreSdeVe": "a variance-exploding SDE",
    "KarrasVe": "a variance-exploding process",
    "ScoreSdeVp": "an SDE in continuous time",
    "EDM": "the noise levels of Karras et al. 2022, with no betas",
    "CM": "a consistency model",
    "VQDiffusion": "a process on discrete tokens",
    "DDPMWuerstchen": "a process in continuous time",
}


@dataclass(frozen=True)
class DiffusionProcess:
    """q(x_t | x_0), q(x_{t-1} | x_t, x_0) and p(x_{t-1} | x_t) of a trained model.

    Attributes:
        beta: float64 (T,); entry i belongs to timestep i, the papers' t = i + 1, here and in what follows.
        prediction_type: epsilon, sample (x_0), v_prediction or mu, the mean of q(x_{t-1} | x_t, x_0).
        variance_type: of p: fixed_small (beta_tilde), fixed_large (beta), learned_range or learned, a second half of the
            network's channels. beta_tilde is 0 at t = 1: there the fixed variances are that of t = 2, and learned_range
            starts from it (as Ho et al.'s code and Nichol & Dhariwal's do).
        alpha, alpha_bar, alpha_bar_prev, beta_tilde, snr: float64 (T,).

    Nothing is clipped: clipping x_0 is for sampling. Source: Ho et al. 2020; Nichol & Dhariwal 2021, equation 15.
    """

    beta: torch.Tensor
    prediction_type: str = "epsilon"
    variance_type: str = "fixed_small"
    alpha: torch.Tensor = field(init=False)
    alpha_bar: torch.Tensor = field(init=False)
    alpha_bar_prev: torch.Tensor = field(init=False)
    beta_tilde: torch.Tensor = field(init=False)
    snr: torch.Tensor = field(init=False)

    def __post_init__(self):
        beta = self.beta.double()
        alpha = 1 - beta
        alpha_bar = alpha.cumprod(0)
        alpha_bar_prev = torch.cat([beta.new_ones(1), alpha_bar[:-1]])
        values = {
            "beta": beta,
            "alpha": alpha,
            "alpha_bar": alpha_bar,
            "alpha_bar_prev": alpha_bar_prev,
            "beta_tilde": (1 - alpha_bar_prev) / (1 - alpha_bar) * beta,
            "snr": alpha_bar / (1 - alpha_bar),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_scheduler(cls, scheduler, variance_type: str | None = None) -> DiffusionProcess:
        """The process of a scheduler's config.

        `variance_type` overrides the config's; a sampler without one, such as DDIM, has fixed_small.

        Raises `HfgenError` for a scheduler whose process is not a DDPM's, and for a prediction or variance not known here.
        """
        name, config = type(scheduler).__name__, scheduler.config
        flow = config.get("use_flow_sigmas")
        if flow or "beta_schedule" not in config or not hasattr(scheduler, "betas"):
            kind = next((words for start, words in OTHER_PROCESSES.items() if name.startswith(start)), "no betas")
            kind = OTHER_PROCESSES["FlowMatch"] if flow else kind
            raise HfgenError(
                f"{name} does not run a DDPM's process ({kind}): the bound is that of a chain with betas; "
                "pass a model with a DDPMScheduler or one that converts to it"
            )
        prediction = config.get("prediction_type") or "epsilon"
        variance = variance_type or config.get("variance_type") or "fixed_small"
        if prediction not in PREDICTIONS:
            raise HfgenError(f"{name} has prediction_type={prediction!r}: known are {', '.join(PREDICTIONS)}")
        if variance not in FIXED and variance not in LEARNED:
            raise HfgenError(f"{name} has variance_type={variance!r}: known are {', '.join((*FIXED, *LEARNED))}")
        betas = scheduler.betas.double().cpu()
        # CogVideoX's shift alpha_bar away from its betas
        if not torch.allclose(scheduler.alphas_cumprod.double().cpu(), (1 - betas).cumprod(0), rtol=1e-3, atol=1e-6):
            raise HfgenError(
                f"{name} does not run a DDPM's process: its alphas_cumprod are not those of its betas; "
                "pass a model with a DDPMScheduler"
            )
        if prediction == "epsilon" and bool((betas >= 1).any()):
            raise HfgenError(
                f"{name} has beta = 1 at the last step, where epsilon says nothing about x_0: "
                "zero terminal SNR needs prediction_type sample or v_prediction"
            )
        return cls(betas, prediction, variance)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.beta)

    @property
    def learned_variance(self) -> bool:
        return self.variance_type in LEARNED

    def to(self, device: torch.device) -> DiffusionProcess:
        """The same with its tensors on `device`; mps, which has no float64, gets them at each use."""
        beta = self.beta if device.type == "mps" else self.beta.to(device)
        return DiffusionProcess(beta, self.prediction_type, self.variance_type)

    def prior_kl(self, x_0: torch.Tensor) -> torch.Tensor:
        """L_T = KL(q(x_T | x_0) || N(0, I)) in nats, float64 (B,), of x_0 (B, C, H, W)."""
        alpha_bar = self.alpha_bar[-1].item()
        square = wide(x_0).square().flatten(1)
        log_variance = torch.log1p(torch.tensor(-alpha_bar, dtype=torch.float64)).item()
        return 0.5 * (alpha_bar * square.sum(1) + square.shape[1] * (-alpha_bar - log_variance))

    def snr_weight(self) -> torch.Tensor:
        """(SNR(t-1) - SNR(t)) / 2 for t = 2..T, float64 (T - 1,): L_{t-1} = weight ||x_0 - x_0_hat||^2 for variance beta_tilde."""
        return (self.snr[:-1] - self.snr[1:]) / 2

    def add_noise(self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, with coefficients in float64; dtype of x_0."""
        signal, sigma = self._signal_and_sigma(timesteps, wide(x_0))
        return (signal * wide(x_0) + sigma * wide(noise)).to(x_0.dtype)

    def terms(self, model, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """L_{t-1} of each row for t >= 2, and L_0 for t = 1, in nats, float64 (B,).

        Args:
            model: called as `model(x_t, timesteps)`, returns an object with `sample`, (B, C, H, W) or, with a learned
                variance, (B, 2C, H, W).
            x_0: 8-bit images on [-1, 1], (B, C, H, W).
            noise: standard normal, of the same shape.
            timesteps: int64 (B,), counted from 0: t - 1.

        Raises `HfgenError` for an output of another shape.
        """
        output = model(self.add_noise(x_0, noise, timesteps), timesteps).sample
        channels = x_0.shape[1] * (2 if self.learned_variance else 1)
        if output.shape != (len(x_0), channels, *x_0.shape[2:]):
            raise HfgenError(
                f"the network puts out {output.shape[1]} channels for images of {x_0.shape[1]}, but variance_type="
                f"{self.variance_type!r} needs {channels}: set the variance_type in its scheduler's config"
            )
        return self.terms_of_output(wide(output), wide(x_0), wide(noise), timesteps)

    def terms_of_output(self, output, x_0, noise, timesteps) -> torch.Tensor:
        """The same from what the network put out, in the dtype of `output`."""
        output, extra = output.chunk(2, dim=1) if self.learned_variance else (output, None)
        error = self.x_0_error(x_0, noise, output, timesteps)
        log_variance = self._log_variance(extra, timesteps, error)
        kl = self._kl(error, log_variance, timesteps)
        first = _column(timesteps == 0, error)
        # elsewhere x_0_hat may lie far out: a gradient that is not finite stays so when multiplied by 0
        decoder = discretized_gaussian_nll(x_0, x_0 - torch.where(first, error, 0), log_variance)
        return torch.where(first, decoder, kl).flatten(1).sum(1)

    def target(self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network is to put out, (B, C, H, W).

        Source: Ho et al. 2020, equations 7 and 11; Salimans & Ho 2022, appendix D (v).
        """
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x_0
        signal, sigma = self._signal_and_sigma(timesteps, x_0)
        if self.prediction_type == "v_prediction":
            return signal * noise - sigma * x_0
        of_x_t = self.alpha.sqrt() * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)
        x_t = signal * x_0 + sigma * noise
        return self._at(self.posterior_weight(), timesteps, x_0) * x_0 + self._at(of_x_t, timesteps, x_0) * x_t

    def x_0_error(self, x_0, noise, output, timesteps) -> torch.Tensor:
        """x_0 - x_0_hat by the network's output, without the cancellation of going through x_0_hat."""
        error = output - self.target(x_0, noise, timesteps)
        sign = 1 if self.prediction_type in ("epsilon", "v_prediction") else -1
        return sign * self._at(self.x_0_error_scale(), timesteps, x_0) * error

    def x_0_error_scale(self) -> torch.Tensor:
        """|d x_0_hat / d output| at each t, float64 (T,)."""
        if self.prediction_type == "epsilon":
            return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()
        if self.prediction_type == "v_prediction":
            return (1 - self.alpha_bar).sqrt()
        return torch.ones_like(self.beta) if self.prediction_type == "sample" else 1 / self.posterior_weight()

    def posterior_weight(self) -> torch.Tensor:
        """The weight of x_0 in the mean of q(x_{t-1} | x_t, x_0), float64 (T,)."""
        return self.alpha_bar_prev.sqrt() * self.beta / (1 - self.alpha_bar)

    def fixed_log_variance(self) -> torch.Tensor:
        """log sigma_t^2 of a fixed variance, float64 (T,); of a learned one, of fixed_small."""
        low = self._log_beta_tilde()
        large = FIXED.get(self.variance_type) == "large"
        return torch.cat([low[:1], self.beta.log()[1:]]) if large else low

    def _kl(self, error, log_variance, timesteps):
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) of each pixel; meaningless at timestep 0."""
        of_x_0 = self._at(self.posterior_weight(), timesteps, error)
        log_beta_tilde = self._at(self._log_beta_tilde(), timesteps, error)
        log_ratio = log_beta_tilde - log_variance
        return 0.5 * (torch.expm1(log_ratio) - log_ratio + (of_x_0 * error).square() * (-log_variance).exp())

    def _log_variance(self, extra, timesteps, like):
        """log sigma_t^2, (B, 1, 1, 1) or for learned ones (B, C, H, W)."""
        if self.variance_type == "learned":
            return extra.clamp(min=1e-20).log()
        if self.variance_type == "learned_range":
            high, low = (self._at(v, timesteps, like) for v in (self.beta.log(), self._log_beta_tilde()))
            share = (extra + 1) / 2
            return share * high + (1 - share) * low
        return self._at(self.fixed_log_variance(), timesteps, like)

    def _log_beta_tilde(self):
        """With the value of t = 2 at t = 1, where it is -inf; of a single step, log beta."""
        if self.num_steps == 1:
            return self.beta.log()
        return torch.cat([self.beta_tilde[1:2], self.beta_tilde[1:]]).log()

    def _signal_and_sigma(self, timesteps, like):
        return self._at(self.alpha_bar.sqrt(), timesteps, like), self._at((1 - self.alpha_bar).sqrt(), timesteps, like)

    def _at(self, values: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return _column(values.to(like.dtype).to(like.device)[timesteps], like)


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def wide(x: torch.Tensor) -> torch.Tensor:
    """As float64; as float32 on mps, which has no float64."""
    return x.float() if x.device.type == "mps" else x.double()
