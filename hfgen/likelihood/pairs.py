"""A diffusion model's bound written by pairs of neighbours, q(x_t | x_{t-1}) against p(x_t | x_{t+1}), in place of posteriors.

-log p(x_0) <= E[-log p(x_0 | x_1)] + E KL(q(x_T | x_{T-1}) || N(0, I)) + sum_{t=1..T-1} E[log q(x_t | x_{t-1}) - log p(x_t | x_{t+1})],
all expectations over q(x_{1:T} | x_0): the same sum as by posteriors, whose logarithms are shared out in another way.

x_t is not drawn: given its two neighbours it is a Gaussian, over which a term is known in closed form. It is not q(x_t | x_{t-1})
alone, as x_{t+1} tells of x_t too: KL(q(x_t | x_{t-1}) || p(x_t | x_{t+1})) with both neighbours drawn, as the term is often written,
takes x_t and x_{t+1} for independent and gives a larger sum.
"""

from __future__ import annotations

import math

import torch

from hfgen.process import LEARNED, Network, ReverseProcess, append_dims, to_float64, values_at

LOG_2PI = math.log(2 * math.pi)


def pair_terms(
    model: Network,
    process: ReverseProcess,
    x_0: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """The term of x_t of each row, in nats, float64 (B,): -log p(x_0 | x_1) at t = 0, log q - log p for t = 1..T-1.

    Args:
        model: called as `model(x, timesteps)`, as `ReverseProcess.terms` calls it, at t + 1.
        x_0: 8-bit images on [-1, 1], (B, C, ...).
        noise: standard normal, (2, B, C, ...): of x_{t-1}, and of the way from there to x_{t+1}.
        timesteps: t, int64 (B,), in 0..T-1: also the number, counted from 0, of the network's step t + 1.

    The last term, of x_T, is `last_pair`.

    Raises `ValueError` for a process with a learned variance.

    Source: Sohl-Dickstein et al. 2015, appendix B, before the posteriors are brought in.
    """
    if process.variance_type in LEARNED:
        raise ValueError(f"variance_type={process.variance_type!r}: pairs are evaluated for fixed variances")
    x_0, noise = to_float64(x_0), to_float64(noise)
    before, after = _neighbours(process, x_0, noise, timesteps)
    first = timesteps == 0
    mean, log_variance = _reverse_moments(model, process, after, timesteps)
    # of x_t given its neighbours, by the precisions of the two steps that it is an end of
    beta, next_beta = (values_at(process.forward.beta, step, x_0) for step in (_previous(timesteps), timesteps))
    precision = 1 / beta + (1 - next_beta) / next_beta
    from_before = (1 - beta).sqrt() * before
    centre = (from_before / beta + (1 - next_beta).sqrt() / next_beta * after) / precision
    spread = 1 / precision
    log_q = -0.5 * (((centre - from_before).square() + spread) / beta + beta.log() + LOG_2PI)
    log_p = -0.5 * (((centre - mean).square() + spread) * (-log_variance).exp() + log_variance + LOG_2PI)
    terms = (log_q - log_p).flatten(1).sum(1)
    if first.any():
        terms[first] = process.terms(model, x_0[first], noise[1][first], timesteps[first])
    return terms


def independent_pair_terms(
    model: Network,
    process: ReverseProcess,
    x_0: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """KL(q(x_t | x_{t-1}) || p(x_t | x_{t+1})), (B,), with the neighbours that `pair_terms` draws: what it is often taken for.

    It is larger on average, as x_t does not know of the x_{t+1} that predicts it. Arguments as `pair_terms`, t >= 1.
    """
    x_0, noise = to_float64(x_0), to_float64(noise)
    before, after = _neighbours(process, x_0, noise, timesteps)
    mean, log_variance = _reverse_moments(model, process, after, timesteps)
    beta = values_at(process.forward.beta, _previous(timesteps), x_0)
    log_ratio = beta.log() - log_variance
    distance = ((1 - beta).sqrt() * before - mean).square() * (-log_variance).exp()
    return 0.5 * (log_ratio.exp() - log_ratio - 1 + distance).flatten(1).sum(1)


def last_pair(process: ReverseProcess, x_0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """KL(q(x_T | x_{T-1}) || N(0, I)) in nats, float64 (B,), at an x_{T-1} drawn with this noise."""
    x_0, noise, last = to_float64(x_0), to_float64(noise), process.num_steps - 1
    beta = process.forward.beta[last].item()
    timesteps = torch.full((len(x_0),), last, device=x_0.device)
    x = _marginal(process, x_0, noise, timesteps - 1)
    return 0.5 * ((1 - beta) * x.square() - (1 - beta) - math.log(beta)).flatten(1).sum(1)


def _previous(timesteps: torch.Tensor) -> torch.Tensor:
    """The number, counted from 0, of step t for t = 1..T-1; at t = 0, which has no such step, some number."""
    return (timesteps - 1).clamp(min=0)


def _marginal(process: ReverseProcess, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """x after the step of that number, counted from 0; x_0 itself for -1."""
    x = process.forward.add_noise(x_0, noise, timesteps.clamp(min=0))
    return torch.where(append_dims(timesteps < 0, x_0), x_0, x)


def _neighbours(
    process: ReverseProcess, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_{t-1} and, by two steps from it, x_{t+1}."""
    before = _marginal(process, x_0, noise[0], timesteps - 2)
    beta, next_beta = (values_at(process.forward.beta, step, x_0) for step in (_previous(timesteps), timesteps))
    variance = 1 - (1 - beta) * (1 - next_beta)
    return before, ((1 - beta) * (1 - next_beta)).sqrt() * before + variance.sqrt() * noise[1]


def _reverse_moments(
    model: Network, process: ReverseProcess, x: torch.Tensor, timesteps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, (B, C, ...), and log variance of p(x_t | x_{t+1})."""
    output = to_float64(model(x, timesteps).sample)
    predicted = process.parameterization.x_0(process.forward, output, x, timesteps)
    of_x_0, of_x = (values_at(weight, timesteps, x) for weight in process.forward.posterior_mean_weights())
    return of_x_0 * predicted + of_x * x, values_at(process.fixed_log_variance(), timesteps, x)
