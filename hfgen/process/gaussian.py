"""The forward process of a diffusion model: a chain of Gaussians over gamma = -log SNR, in float64."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch


def squared_coefficients(gamma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha_bar = sigmoid(-gamma) and 1 - alpha_bar = sigmoid(gamma), each without cancellation; for continuous t too.

    They are the squares of the weights of x_0 and of the noise in x_t, alpha_t^2 and sigma_t^2 of Kingma et al. 2021, section 3.2.
    """
    return torch.sigmoid(-gamma), torch.sigmoid(gamma)


def one_minus_snr_ratio(gamma_s: torch.Tensor, gamma_t: torch.Tensor) -> torch.Tensor:
    """c = 1 - SNR(t) / SNR(s) for s < t, without cancellation; for continuous t too.

    With it the variance of q(x_t | x_s) is (1 - alpha_bar_t) c, that of q(x_s | x_t, x_0) is (1 - alpha_bar_s) c, and
    sqrt(alpha_bar_s) c is the weight of x_0 in its mean. Source: Kingma et al. 2021, appendix A.
    """
    return -torch.expm1(gamma_s - gamma_t)


def posterior_mean_weights(
    *,
    beta: torch.Tensor,
    alpha_bar_prev: torch.Tensor,
    one_minus_alpha_bar: torch.Tensor,
    one_minus_alpha_bar_prev: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of x_0 and of x_t in the mean of q(x_{t-1} | x_t, x_0). Source: Ho et al. 2020, equation 7."""
    of_x_0 = alpha_bar_prev.sqrt() * beta / one_minus_alpha_bar
    of_x_t = (1 - beta).sqrt() * one_minus_alpha_bar_prev / one_minus_alpha_bar
    return of_x_0, of_x_t


def to_float64(x: torch.Tensor) -> torch.Tensor:
    """As float64; as float32 on mps, which has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def append_dims(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`values`, (B,), with as many dimensions of size 1 behind as `like`, (B, ...), has."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def values_at(values: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The entries of `values`, (T,), at `timesteps`, (B,), in dtype and device of `like`, (B, ...), to be broadcast with it."""
    return append_dims(values.to(like.dtype).to(like.device)[timesteps.to(like.device)], like)


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianProcess:
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) for t = 1..T, and what follows from it.

    Made by `from_betas` or `from_gamma`. Timesteps count from 0 as in diffusers: entry i of each table and `timestep` i belong to
    the papers' t = i + 1.

    Attributes:
        gamma: -log SNR(t); this and all that follow are float64 (T,).
        beta, alpha: the variance of q(x_t | x_{t-1}) and 1 - beta.
        alpha_bar, one_minus_alpha_bar: the products of alpha, and their complements as exact as they can be.
        alpha_bar_prev, one_minus_alpha_bar_prev: those of t - 1; 1 and 0 at t = 1.
        signal, sigma: roots of `alpha_bar` and `one_minus_alpha_bar`.
        beta_tilde: the variance of q(x_{t-1} | x_t, x_0); 0 at t = 1.
        snr: alpha_bar / (1 - alpha_bar).

    Source: Ho et al. 2020, equations 2, 4, 6 and 7; gamma: Kingma et al. 2021, section 3.
    """

    gamma: torch.Tensor
    beta: torch.Tensor
    alpha: torch.Tensor
    alpha_bar: torch.Tensor
    one_minus_alpha_bar: torch.Tensor
    alpha_bar_prev: torch.Tensor
    one_minus_alpha_bar_prev: torch.Tensor
    signal: torch.Tensor
    sigma: torch.Tensor
    beta_tilde: torch.Tensor
    snr: torch.Tensor

    @classmethod
    def from_betas(cls, betas: torch.Tensor) -> GaussianProcess:
        """The chain with these variances, (T,); the last may be 1. Raises `ValueError` for others outside (0, 1)."""
        beta = betas.double()
        if not (beta[:-1] < 1).all() or not ((beta > 0) & (beta <= 1)).all():
            raise ValueError(f"betas from {beta.min():g} to {beta.max():g}: they lie in (0, 1), the last may be 1")
        alpha_bar = (1 - beta).cumprod(0)
        one_minus_alpha_bar = 1 - alpha_bar
        gamma = one_minus_alpha_bar.log() - alpha_bar.log()
        return cls._of(gamma, beta, alpha_bar, one_minus_alpha_bar)

    @classmethod
    def from_gamma(cls, gamma: torch.Tensor) -> GaussianProcess:
        """The chain with these -log SNR, (T,), before whose first stands x_0 itself. Raises `ValueError` unless they increase."""
        gamma = gamma.double()
        if not (gamma.diff() > 0).all():
            raise ValueError(f"gamma from {gamma[0]:g} to {gamma[-1]:g} does not increase at each step: sort it")
        alpha_bar, one_minus_alpha_bar = squared_coefficients(gamma)
        before = torch.cat([gamma.new_full((1,), -torch.inf), gamma[:-1]])
        beta = one_minus_alpha_bar * one_minus_snr_ratio(before, gamma)
        return cls._of(gamma, beta, alpha_bar, one_minus_alpha_bar)

    @classmethod
    def _of(
        cls, gamma: torch.Tensor, beta: torch.Tensor, alpha_bar: torch.Tensor, one_minus_alpha_bar: torch.Tensor
    ) -> GaussianProcess:
        one_minus_alpha_bar_prev = torch.cat([beta.new_zeros(1), one_minus_alpha_bar[:-1]])
        return cls(
            gamma=gamma,
            beta=beta,
            alpha=1 - beta,
            alpha_bar=alpha_bar,
            one_minus_alpha_bar=one_minus_alpha_bar,
            alpha_bar_prev=torch.cat([beta.new_ones(1), alpha_bar[:-1]]),
            one_minus_alpha_bar_prev=one_minus_alpha_bar_prev,
            signal=alpha_bar.sqrt(),
            sigma=one_minus_alpha_bar.sqrt(),
            beta_tilde=one_minus_alpha_bar_prev / one_minus_alpha_bar * beta,
            snr=alpha_bar / one_minus_alpha_bar,
        )

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.gamma)

    def to(self, device: torch.device) -> GaussianProcess:
        """The same with its tables on `device`; for mps, which has no float64, on the CPU, and converted at each use."""
        place = torch.device("cpu") if device.type == "mps" else device
        return type(self)(**{item.name: getattr(self, item.name).to(place) for item in fields(self)})

    def signal_and_sigma(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of x_0 and of the noise in x_t, each (B, 1, ...) in dtype and device of `like`, (B, ...)."""
        return values_at(self.signal, timesteps, like), values_at(self.sigma, timesteps, like)

    def add_noise(self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, (B, ...), computed in the dtype of x_0."""
        signal, sigma = self.signal_and_sigma(timesteps, x_0)
        return signal * x_0 + sigma * noise

    def posterior_mean_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of x_0 and of x_t in the mean of q(x_{t-1} | x_t, x_0), each float64 (T,)."""
        return posterior_mean_weights(
            beta=self.beta,
            alpha_bar_prev=self.alpha_bar_prev,
            one_minus_alpha_bar=self.one_minus_alpha_bar,
            one_minus_alpha_bar_prev=self.one_minus_alpha_bar_prev,
        )

    def posterior(
        self, x_0: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean, (B, ...), and variance, (B, 1, ...), of q(x_{t-1} | x_t, x_0) in the dtype of x_t; x_0 and 0 at timestep 0."""
        of_x_0, of_x_t = (values_at(weight, timesteps, x_t) for weight in self.posterior_mean_weights())
        return of_x_0 * x_0 + of_x_t * x_t, values_at(self.beta_tilde, timesteps, x_t)

    def prior_kl(self, x_0: torch.Tensor) -> torch.Tensor:
        """L_T = KL(q(x_T | x_0) || N(0, I)) in nats, float64 (B,), of x_0 (B, ...)."""
        alpha_bar = self.alpha_bar[-1].item()
        square = to_float64(x_0).square().flatten(1)
        # alpha_bar_T is all but 0, and log(1 - alpha_bar_T) would lose it
        log_variance = torch.log1p(torch.tensor(-alpha_bar, dtype=torch.float64)).item()
        return 0.5 * (alpha_bar * square.sum(1) + square.shape[1] * (-alpha_bar - log_variance))

    def snr_weight(self) -> torch.Tensor:
        """(SNR(t-1) - SNR(t)) / 2 for t = 2..T, float64 (T - 1,): L_{t-1} = weight ||x_0 - x_0_hat||^2 for variance beta_tilde."""
        return (self.snr[:-1] - self.snr[1:]) / 2

    def log_beta_tilde(self) -> torch.Tensor:
        """float64 (T,), with the value of t = 2 at t = 1, where it is -inf; of a single step, log beta."""
        if self.num_steps == 1:
            return self.beta.log()
        return torch.cat([self.beta_tilde[1:2], self.beta_tilde[1:]]).log()
