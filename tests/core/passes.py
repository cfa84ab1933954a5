"""Networks in a state in which folding shows, and what is compared of them."""

import torch
from torch import nn
from torch.nn import functional as F

from perceptual_lib.core.folding import find_folds


def unsettled(network: nn.Module) -> nn.Module:
    """In double precision, with statistics and weights of batch norms that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.bias.data):
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
            for value in (module.running_var, module.weight.data):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.double().eval()


def assert_alike(one, other, images: torch.Tensor) -> None:
    """Two networks, or ways to call one, give the same logits and gradient."""
    pairs = zip(logits_and_gradient(one, images), logits_and_gradient(other, images), strict=True)
    assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in pairs)


def logits_and_gradient(network, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = network(images)
        return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), images)[0]


def folded(network: nn.Module, images: torch.Tensor) -> int:
    """How many convolutions do the work of a batch norm."""
    return sum(each is not None and each.known[0] is F.batch_norm for each in find_folds(network, images))
