"""Putting LoRAs on a model's UNet for a while, by peft, and taking them off so that nothing is left.

Nothing is ever fused: fusing and undoing it rounds the weights. A wrapper stands around each layer while a LoRA is on; on
leaving the ``with`` block the layers themselves, which nobody has touched, stand there again.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sentinv.adapters.bases import NAMES, base_of_lora, base_of_unet
from sentinv.adapters.fitting import Fitted, fit
from sentinv.adapters.layouts import LoraLayer
from sentinv.adapters.lora import Lora
from sentinv.adapters.names import adaptable
from sentinv.errors import ConceptError
from sentinv.files.atomic import shown

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.models.backbone import Backbone

_SHOWN = 3  # names in a message
_WORN = "_sentinv_loras"  # an attribute of the UNet: the LoRAs that are on


class Adapters:
    """LoRAs that are on a UNet.

    Attributes:
        fitted: which, and what the model has of each.
        parameters: "<module>.down" and "<module>.up" → float32 parameter, of the first of them.
    """

    def __init__(
        self, fitted: Sequence[Fitted], wrappers: Sequence[Any], parameters: Mapping[str, nn.Parameter]
    ) -> None:
        self.fitted, self.parameters = tuple(fitted), dict(parameters)
        self._wrappers = tuple(wrappers)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model without them inside a ``with`` block, bit for bit."""
        weights = [weight for wrapper in self._wrappers for weight in _weights(wrapper)]
        learning = [weight.requires_grad for weight in weights]
        for wrapper in self._wrappers:
            wrapper.enable_adapters(False)
        try:
            yield
        finally:
            for wrapper in self._wrappers:
                wrapper.enable_adapters(True)
            for weight, learns in zip(weights, learning, strict=True):
                weight.requires_grad_(learns)


@contextmanager
def adapted(backbone: Backbone, loras: Lora | Sequence[Lora | tuple[Lora, float]]) -> Iterator[Adapters]:
    """Put LoRAs on a model inside a ``with`` block; undone on leaving it, also by an error.

    Args:
        backbone: its UNet is changed, and afterwards bit for bit what it was; its text encoders are left alone.
        loras: one or several, each alone or with the scale that it counts with; 1 is as it was trained, 0 has no effect.

    Raises:
        ConceptError: If a LoRA does not fit the model at all. Layers that the model has not, and a LoRA that was trained on
            another model, give a warning.
        TypeError: If something else than LoRAs and scales is given.
        ValueError: If a scale is not finite, or the UNet has adapters of somebody else.
    """
    pairs = [_pair(one) for one in ([loras] if isinstance(loras, Lora) else loras)]
    _refuse_adapters(backbone.unet)
    fitted = []
    for lora, scale in pairs:
        if not abs(scale) < float("inf"):
            raise ValueError(f"expected a finite scale for {lora.title}, got {scale}")
        fitted.append(fit(lora, backbone))
        _warn(fitted[-1], backbone)
    with _installed(backbone, fitted, [scale for _, scale in pairs]) as adapters:
        yield adapters


def _pair(one: Any) -> tuple[Lora, float]:
    """A LoRA and its scale."""
    pair = (one, 1.0) if isinstance(one, Lora) else one
    match pair:
        case [Lora() as lora, float() | int() as scale]:
            return lora, float(scale)
    raise TypeError(f"expected a LoRA, or one and its scale, got {one!r:.80}: sentinv.load_lora reads a file")


@contextmanager
def learning(backbone: Backbone, layers: Mapping[str, LoraLayer]) -> Iterator[Adapters]:
    """Put layers on a model inside a ``with`` block so that they can be trained. Otherwise as `adapted`."""
    _refuse_adapters(backbone.unet)
    with _installed(backbone, [Fitted(Lora(layers=layers), ())], [1.0]) as adapters:
        for parameter in adapters.parameters.values():
            parameter.requires_grad_(True)
        yield adapters


def check_words(loras: Sequence[Lora], concepts: Sequence[Concept]) -> None:
    """Warn of LoRAs whose word is not there."""
    for lora in loras:
        if lora.token and lora.token not in [concept.token for concept in concepts]:
            warnings.warn(
                f"{lora.title} belongs to {lora.token}, which is not given: add its concept file", stacklevel=2
            )


def check_rows(backbone: Backbone, concepts: Sequence[Concept]) -> None:
    """Warn of LoRAs that are on a model and were trained around another word of the same name."""
    for lora in getattr(backbone.unet, _WORN, ()):
        for concept in concepts:
            if lora.is_around_another(concept):
                warnings.warn(f"{lora.of_another}: use the word it came with", stacklevel=2)


def fresh_layers(unet: Any, targets: Sequence[str], rank: int, generator: torch.Generator) -> dict[str, LoraLayer]:
    """Layers that change nothing yet: `down` uniform as a linear layer's weight begins, `up` zero, alpha as large as the rank.

    Args:
        unet: whose modules.
        targets: ends of the names of modules that get a layer, such as "to_q".
        rank: of each layer, ≥ 1; no more than its module has inputs or outputs.
        generator: on the CPU.

    Raises:
        ConceptError: If there is no such module.
    """
    layers = {}
    for name, module in adaptable(unet).items():
        if not any(name == target or name.endswith(f".{target}") for target in targets):
            continue
        shape = module.weight.shape
        own = min(rank, shape[0], shape[1:].numel())
        bound = shape[1:].numel() ** -0.5
        down = (2 * torch.rand((own, *shape[1:]), generator=generator) - 1) * bound
        layers[name] = LoraLayer(down, torch.zeros((shape[0], own, *[1] * (len(shape) - 2))), float(own))
    if not layers:
        raise ConceptError(
            f"expected names of modules of the UNet, such as to_q, got {', '.join(targets)}: none has such a name"
        )
    return layers


def _refuse_adapters(unet: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in unet.modules()):
        raise ValueError("expected a model without adapters, got one that has some: unload them, or put all on at once")


def _warn(fitted: Fitted, backbone: Backbone) -> None:
    lora = fitted.lora
    if lora.fingerprint and lora.fingerprint != backbone.fingerprint:
        made = f" ({lora.base_model})" if lora.base_model else ""
        warnings.warn(f"{lora.title} was trained on another model{made} than {backbone.name}", stacklevel=4)
    own, told = base_of_unet(backbone.unet), base_of_lora(lora)
    if own and told and told != own:
        warnings.warn(f"{lora.title} is for {NAMES[told]}, and {backbone.name} is {NAMES[own]}", stacklevel=4)
    if fitted.missing:
        names = ", ".join(shown(name[:60]) for name in fitted.missing[:_SHOWN])
        warnings.warn(f"{lora.title}: {fitted.told}; not in {backbone.name}: {names} …", stacklevel=4)


@contextmanager
def _installed(backbone: Backbone, fitted: Sequence[Fitted], scales: Sequence[float]) -> Iterator[Adapters]:
    unet = backbone.unet
    _ = backbone.fingerprint  # taken once and kept: with adapters on, modules have other names
    before, places = dict(vars(unet)), {name for one in fitted for name in one.lora.layers}
    modules = {name: unet.get_submodule(name) for name in places}
    with ExitStack() as undo:
        undo.callback(_take_off, unet, modules, before)
        setattr(unet, _WORN, tuple(one.lora for one in fitted))
        names = [f"sentinv_{index}" for index in range(len(fitted))]
        for name, one in zip(names, fitted, strict=True):
            add_layers(unet, name, one.lora.layers)
        wrappers = [unet.get_submodule(place) for place in sorted(places)]
        for name, one, scale in zip(names, fitted, scales, strict=True):
            for place, layer in one.lora.layers.items():
                _fill(unet.get_submodule(place), name, layer, scale)
        for wrapper in wrappers:
            wrapper.set_adapter(names)
            wrapper.requires_grad_(False)
        yield Adapters(fitted, wrappers, _first(unet, names[:1], fitted))


def add_layers(unet: Any, name: str, layers: Mapping[str, LoraLayer]) -> None:
    """Have peft wrap the modules of layers, by the name of an adapter; values are not filled in."""
    from peft import LoraConfig

    ranks = {place: layer.rank for place, layer in layers.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        target_modules="|".join(re.escape(place) for place in layers),
        rank_pattern={f"^{re.escape(place)}": rank for place, rank in ranks.items()},
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # peft draws numbers, which are written over
        warnings.simplefilter("ignore")
        unet.add_adapter(config, name)


@torch.no_grad()
def _fill(wrapper: Any, name: str, layer: LoraLayer, scale: float) -> None:
    device = wrapper.get_base_layer().weight.device
    for part, value in ((wrapper.lora_A, layer.down), (wrapper.lora_B, layer.up)):
        part[name].weight = nn.Parameter(value.to(device, torch.float32, copy=True), requires_grad=False)
    wrapper.scaling[name] = scale * layer.scale


def _first(unet: Any, names: Sequence[str], fitted: Sequence[Fitted]) -> dict[str, nn.Parameter]:
    parameters = {}
    for name in names:
        for place in fitted[0].lora.layers:
            wrapper = unet.get_submodule(place)
            parameters[f"{place}.down"] = wrapper.lora_A[name].weight
            parameters[f"{place}.up"] = wrapper.lora_B[name].weight
    return parameters


def _weights(wrapper: Any) -> list[Tensor]:
    return [part.weight for kind in (wrapper.lora_A, wrapper.lora_B) for part in kind.values()]


def _take_off(unet: Any, modules: Mapping[str, nn.Module], before: Mapping[str, Any]) -> None:
    """Put the layers back where they were, and forget what diffusers and peft noted on the UNet."""
    for place, module in modules.items():
        parent, _, name = place.rpartition(".")
        setattr(unet.get_submodule(parent), name, module)
    for name in [name for name in vars(unet) if name not in before]:
        delattr(unet, name)
    for name in ("_hf_peft_config_loaded", "peft_config"):
        if name in before:
            setattr(unet, name, before[name])
