"""Which layers of a LoRA a model has, by whatever names, and in the shapes that its modules want: nothing is put on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from sentinv.adapters.layouts import LoraLayer
from sentinv.adapters.lora import Lora
from sentinv.adapters.names import adaptable, aliases, flat
from sentinv.errors import ConceptError
from sentinv.files.atomic import shown

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone


@dataclass(frozen=True)
class Fitted:
    """A LoRA and what a model has of it.

    Attributes:
        lora: with its layers by the names of the model's modules.
        missing: names of layers that the model has not.
    """

    lora: Lora
    missing: tuple[str, ...]

    @property
    def told(self) -> str:
        """How many layers were found and how many not, and what else is in the file, in words."""
        found = len(self.lora.layers)
        parts = [f"{found} of {found + len(self.missing)} layers found"]
        parts += [f"{count} {what} left out" for what, count in self.lora.left_out.items()]
        return ", ".join(parts)


def fit(lora: Lora, backbone: Backbone) -> Fitted:
    """Find a LoRA's layers in a model.

    Raises:
        ConceptError: If none is there, or one has another shape there: the LoRA is for another model.
    """
    return find(lora, backbone.unet, backbone.name)


def find(lora: Lora, unet: Any, model: str) -> Fitted:
    """Find a LoRA's layers in a UNet, with values or without. Otherwise as `fit`.

    Args:
        lora: with its layers by whatever names.
        unet: of diffusers.
        model: what messages call it.
    """
    own, modules = aliases(unet), adaptable(unet)
    found, missing = {}, []
    for name, layer in lora.layers.items():
        module = own.get(flat(name))
        if module is None:
            missing.append(name)
        elif module in found:
            raise ConceptError(f"{lora.title} has two layers for {module}: it makes no sense; get it again")
        else:
            found[module] = _shaped(lora, module, layer, modules[module], model)
    if not found:
        raise ConceptError(
            f"{lora.title}: none of its {len(missing)} layers was found in {model}, such as {shown(missing[0][:80])}: "
            "it is for another kind of model"
        )
    return Fitted(replace(lora, layers=dict(sorted(found.items()))), tuple(missing))


def _shaped(lora: Lora, name: str, layer: LoraLayer, module: nn.Linear | nn.Conv2d, model: str) -> LoraLayer:
    """The layer in the shape that its module wants: a 1 × 1 convolution is a linear layer, and files have one for the other."""
    shape, rank = module.weight.shape, layer.rank
    wanted = [(rank, *shape[1:]), (shape[0], rank, *[1] * (len(shape) - 2))]
    matrices = []
    for tensor, own in zip((layer.down, layer.up), wanted, strict=True):
        if _bare(tuple(tensor.shape)) != _bare(own):
            raise ConceptError(
                f"{lora.title} does not fit {model}: expected {list(own)} for {name}, got {list(tensor.shape)}: "
                "it is for another model"
            )
        matrices.append(tensor.reshape(own))
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        raise ConceptError(f"{lora.title} has a layer for {name}, whose convolution has groups: that is not supported")
    return LoraLayer(matrices[0], matrices[1], layer.alpha)


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without sides of 1 at its end, of a convolution that is a linear layer."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape
