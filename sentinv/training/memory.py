"""How much memory training takes, found without loading a weight.

The networks are built on torch's "meta" device, which knows shapes and no values, and one training step is run there: what
autograd keeps for the backward pass is counted as it is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from sentinv.models.folders import parts_of, text_encoder_class
from sentinv.models.loading import best_device, best_dtype
from sentinv.models.names import source_of
from sentinv.models.parts import load_part
from sentinv.models.vae import autoencoder_class
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.lean_convolutions import lean_convolutions

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone


def training_memory(
    name: str, config: TrainConfig, dtype: str | None = None, device: str | None = None
) -> dict[str, int] | None:
    """Estimate what training with a model takes.

    Args:
        name: as `load` takes it.
        config: of the training; batch size and gradient checkpointing count.
        dtype: "float32", "float16" or "bfloat16"; what `load` would choose for the device if not given.
        device: where it would run; the best there is if not given.

    Returns:
        Bytes of "weights", "activations", and "total" of both; None for a single checkpoint file, which has no configs.

    Raises:
        ModelError: If the model's configs cannot be loaded.
    """
    source = source_of(name)
    if isinstance(source, Path):
        return None
    precision = getattr(torch, dtype) if dtype else best_dtype(torch.device(device) if device else best_device())
    with torch.device("meta"):
        unet, vae, encoders = _networks(name, source)
    parts = [network.to(precision) for network in (unet, vae, *encoders)]
    weights = sum(weight.nbytes for part in parts for weight in part.parameters())
    for part in parts:
        part.requires_grad_(False).eval()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if isinstance(config, TuneConfig):
        adapt(unet, config)
    rows = not isinstance(config, TuneConfig) or config.train_rows
    most = -(-config.items // config.parts(side_of(unet)))
    activations = kept_by_autograd(unet, encoders, most, rows=rows)
    return {"weights": weights, "activations": activations, "total": weights + activations}


def adapt(unet: Any, config: TuneConfig) -> None:
    """Put layers that learn on a UNet without values."""
    from peft import LoraConfig

    with torch.device("meta"):
        unet.add_adapter(LoraConfig(r=config.rank, target_modules=list(config.targets)))


def step_memory(backbone: Backbone, batch: int = 1) -> int:
    """Bytes that a training step of a loaded model keeps beside the weights, with gradient checkpointing."""
    dtype = backbone.dtype
    with torch.device("meta"):
        unet = type(backbone.unet).from_config(backbone.unet.config).to(dtype)
        encoders = [type(encoder.model)(encoder.model.config).to(dtype) for encoder in backbone.text_encoders]
    for part in (unet, *encoders):
        part.requires_grad_(False).eval()
    unet.enable_gradient_checkpointing()
    return kept_by_autograd(unet, encoders, batch)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _networks(name: str, source: str) -> tuple[Any, Any, list[Any]]:
    from diffusers import UNet2DConditionModel

    def built(family: Any, part: str) -> Any:
        return load_part(name, part, lambda: family.from_config(family.load_config(source, subfolder=part)))

    def encoder(part: str) -> Any:
        family = text_encoder_class(part)
        return load_part(name, part, lambda: family(family.config_class.from_pretrained(source, subfolder=part)))

    vae, *encoders = parts_of(name, source)
    vae_class = autoencoder_class(name, source, vae)
    return built(UNet2DConditionModel, "unet"), built(vae_class, vae), [encoder(part) for part in encoders]


def side_of(unet: Any) -> int:
    """Side of the latents that a UNet is made for."""
    size = unet.config.sample_size
    return size if isinstance(size, int) else max(size)


def kept_by_autograd(unet: Any, encoders: list[Any], batch: int, *, rows: bool = True) -> int:
    """Bytes that one forward pass keeps for the backward pass, of the UNet and, where rows learn, of the text encoders."""
    own = {weight.untyped_storage()._cdata for part in (unet, *encoders) for weight in part.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # a storage that is gone could give its address to another
        return tensor

    dtype, config, size = unet.dtype, unet.config, side_of(unet)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.device("meta"), hooks, _FusedAttention(), lean_convolutions(unet):
        hidden = [_encoded(encoder, batch) for encoder in encoders]
        if not rows:
            kept.clear()
            alive.clear()
            hidden = [one.detach() for one in hidden]
        extra: dict[str, Any] = {}
        if config.addition_embed_type == "text_time":
            width = encoders[-1].config.projection_dim
            times = torch.empty(batch, 6, dtype=dtype)
            extra = {"added_cond_kwargs": {"text_embeds": torch.empty(batch, width, dtype=dtype), "time_ids": times}}
        latents = torch.empty(batch, config.in_channels, size, size, dtype=dtype)
        unet(latents, torch.empty(batch, dtype=torch.int64), torch.cat(hidden, dim=-1), **extra)
    return sum(kept.values())


def _encoded(encoder: Any, batch: int) -> Tensor:
    """Hidden states `[batch, length, width]` that need a gradient, as those of installed rows do."""
    table = encoder.get_input_embeddings()
    ids = torch.empty(batch, encoder.config.max_position_embeddings, dtype=torch.int64)
    handle = table.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    try:
        return encoder(ids, output_hidden_states=True).hidden_states[-1]
    finally:
        handle.remove()


class _FusedAttention(TorchFunctionMode):
    """Attention as the fused kernels do it, which do not keep the scores; on "meta" torch would keep them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return _Fused.apply(given["query"], given["key"], given["value"])
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Keeps what a fused kernel keeps: its inputs, its output and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, torch.empty(query.shape[:-1], dtype=torch.float32))
        return output
