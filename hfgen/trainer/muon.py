"""Muon: steps whose matrices have orthogonal rows or columns, beside AdamW for what is no matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

SMALLEST_SIDE = 16
MOMENTUM = 0.95
# of the odd polynomial that brings singular values near to 1, five times over (Jordan et al. 2024)
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
# the root of the mean square of AdamW's steps, by which Muon's take the same learning rate and decay (Liu et al. 2025)
RMS_OF_ADAMW = 0.2


class Muon(torch.optim.AdamW):
    """AdamW, but for kernels: these step along the orthogonal matrix nearest to their Nesterov momentum.

    A kernel is a parameter of two dimensions or more, whose first and all others multiplied are 16 at least: weights of linear layers
    and convolutions, and tables of so many rows. What is thinner is none, as layers that take or give grey images mostly are, nor are
    small tables of classes, norms and biases.

    Args:
        parameters: in any order; the state names them by their number, others first, kernels then.
        products: type of the matrix products that make steps orthogonal, such as torch.bfloat16; None: the gradients'.
        settings: AdamW's. Learning rate and weight decay are the kernels' too.

    Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is scalable for
    LLM training", equation 4, for the learning rate.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, products: torch.dtype | None = None, **settings):
        self._products = products
        parameters = list(parameters)
        parts = [[p for p in parameters if is_kernel(p) is kernels] for kernels in (False, True)]
        super().__init__([{"params": part} for part in parts if part], **settings)

    @torch.no_grad()
    def step(self, closure=None):
        """As `torch.optim.Optimizer.step`; gradients of kernels are used up."""
        if closure is not None:
            raise ValueError("closure: Muon takes none")
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None and is_kernel(p):
                    by_shape.setdefault(_sides(p), []).append(p)
            for kernels in by_shape.values():
                self._step_kernels(kernels, group["lr"], group["weight_decay"])
                for p in kernels:
                    p.grad = None  # AdamW then passes them over
        return super().step()

    def _step_kernels(self, kernels: Sequence[torch.nn.Parameter], lr: float | torch.Tensor, decay: float) -> None:
        """Kernels of one shape."""
        steps = torch.stack([self._momentum(p).flatten(1) for p in kernels])
        steps = orthogonal(steps, self._products) * (RMS_OF_ADAMW * math.sqrt(max(steps.shape[1:])))
        for p, step in zip(kernels, steps, strict=True):
            p.mul_(1 - lr * decay).sub_(lr * step.view(p.shape))

    def _momentum(self, p: torch.nn.Parameter) -> torch.Tensor:
        """Nesterov's, of a gradient that has been added to it."""
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())  # AdamW, which loads the state, looks for it
            state["momentum_buffer"] = torch.zeros_like(p)
        state["momentum_buffer"].lerp_(p.grad, 1 - MOMENTUM)
        return p.grad.lerp(state["momentum_buffer"], MOMENTUM)


def is_kernel(parameter: torch.Tensor) -> bool:
    """Whether `Muon` takes it for a matrix."""
    return parameter.ndim >= 2 and min(_sides(parameter)) >= SMALLEST_SIDE


def orthogonal(matrices: torch.Tensor, products: torch.dtype | None = None) -> torch.Tensor:
    """Near to U V^T of the singular value decompositions U S V^T of matrices (N, rows, columns), of their type.

    The singular values come out between 0.6 and 1.3 where they were not tiny, which serves as well and needs products alone, in the
    type `products` (None: theirs).
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(products or x.dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


def _sides(parameter: torch.Tensor) -> tuple[int, int]:
    return parameter.shape[0], math.prod(parameter.shape[1:])
