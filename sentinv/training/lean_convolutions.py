"""Convolutions whose weights are frozen need not keep their inputs.

Torch keeps a convolution's input for the gradient of its weight, wanted or not: its backward pass is one function for all
gradients. Here only the weight is kept. Values and gradients are those of torch, bit for bit; the memory of one activation
per convolution is saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input


@contextmanager
def lean_convolutions(model: nn.Module) -> Iterator[None]:
    """Let the frozen convolutions of a model keep less inside a ``with`` block; undone on leaving it, also by an error."""
    changed = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _suits(module)]
    for module in changed:
        vars(module)["forward"] = _Lean(module)
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _suits(module: nn.Conv2d) -> bool:
    return (
        type(module) is nn.Conv2d
        and "forward" not in vars(module)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not any(parameter.requires_grad for parameter in module.parameters())
    )


class _Lean:
    """A convolution's forward pass that keeps no input where a gradient will flow."""

    def __init__(self, module: nn.Conv2d) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        settings: tuple[Any, ...] = (module.stride, module.padding, module.dilation, module.groups)
        if torch.is_grad_enabled() and x.requires_grad:
            return _FrozenConvolution.apply(x, module.weight, module.bias, settings)
        return nn.functional.conv2d(x, module.weight, module.bias, *settings)


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.settings = x.shape, settings
        return nn.functional.conv2d(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return conv2d_input(ctx.size, weight, gradients[0], *ctx.settings), None, None, None
