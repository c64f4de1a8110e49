import pytest
import torch
from torch import nn

from sentinv.training.lean_convolutions import lean_convolutions


def kept_bytes(model, x):
    """Bytes that the backward pass will need, weights not counted."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    return sum(kept.values()), output


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 4, 1, bias=False)).requires_grad_(False)


def test_same_values_and_gradients_to_the_bit_and_less_kept(model):
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1)).requires_grad_()
    plain_bytes, plain = kept_bytes(model, x)
    (wanted,) = torch.autograd.grad(plain.square().sum(), x)
    with lean_convolutions(model):
        lean_bytes, lean = kept_bytes(model, x)
    (got,) = torch.autograd.grad(lean.square().sum(), x)
    assert torch.equal(plain, lean) and torch.equal(wanted, got)
    inputs_of_convolutions = 4 * (2 * 4 * 9 * 9 + 2 * 8 * 9 * 9 + 2 * 8 * 5 * 5)
    assert plain_bytes - lean_bytes == inputs_of_convolutions


def test_unet_gives_the_same_to_the_bit(sd1_backbone):
    unet = sd1_backbone.unet
    generator = torch.Generator().manual_seed(2)
    latents, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)
    hidden.requires_grad_()
    results = []
    for lean in (False, True):
        hidden.grad = None
        if lean:
            with lean_convolutions(unet):
                output = unet(latents, torch.tensor([10, 900]), hidden).sample
                output.square().sum().backward()
        else:
            output = unet(latents, torch.tensor([10, 900]), hidden).sample
            output.square().sum().backward()
        results.append((output.detach(), hidden.grad.clone()))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_what_learns_or_is_special_is_left_alone_and_all_is_undone(model):
    model[0].weight.requires_grad_(True)
    model[4].padding_mode = "reflect"
    with pytest.raises(RuntimeError, match="inside"), lean_convolutions(model):
        assert ["forward" in vars(layer) for layer in model] == [False, False, True, False, False]
        with lean_convolutions(model):  # a second time changes nothing
            pass
        assert "forward" in vars(model[2])
        raise RuntimeError("inside")
    assert not any("forward" in vars(layer) for layer in model)
