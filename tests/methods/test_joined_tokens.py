"""Where the image's tokens lie among others: wherever they were joined, also with the sequence first."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib import explain

CLASS = 3


class Placed(nn.Module):
    """ViT whose class token stands behind so many patches; with `sequence_first`, tokens are (n, B, C) as in CLIP."""

    def __init__(self, at: int, sequence_first: bool = False) -> None:
        super().__init__()
        self.beside = torch.zeros(())  # of joins that are none of the class token's
        self.at, self.sequence_first = at, sequence_first
        self.patches, self.token, self.head = (
            nn.Conv2d(3, 6, 16, 16),
            nn.Parameter(torch.randn(1, 1, 6)),
            nn.Linear(6, 10),
        )
        block = partial(nn.TransformerEncoderLayer, 6, 2, 12, activation="gelu", norm_first=True)
        self.blocks = nn.Sequential(*(block(batch_first=not sequence_first) for _ in range(2)))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        token = self.token.expand(len(images), -1, -1)
        tokens = torch.cat([tokens[:, : self.at], token, tokens[:, self.at :]], dim=1)
        moved = torch.cat([torch.tensor([]), tokens[:, self.at + 1 :], tokens[:, : self.at + 1]], dim=1)
        memory = torch.cat([tokens[:, 1:], torch.zeros_like(token).detach()], dim=1)
        tokens = tokens + self.beside * (moved.mean() + memory.mean())
        tokens = self.blocks(tokens.transpose(0, 1)).transpose(0, 1) if self.sequence_first else self.blocks(tokens)
        return self.head(tokens[:, self.at])


@pytest.mark.filterwarnings("ignore:the network has tokens", "ignore:the network's activations are not of one image")
@pytest.mark.parametrize("at", [0, 24])
@pytest.mark.parametrize("sequence_first", [False, True])
def test_a_class_token_may_stand_anywhere(at: int, sequence_first: bool) -> None:
    torch.manual_seed(0)
    network, images = Placed(at, sequence_first).double().eval(), torch.randn(2, 3, 64, 96, dtype=torch.double)
    seen: list[Tensor] = []
    with network.blocks[1].norm1.register_forward_hook(lambda _, inputs, output: seen.append(output)):
        scores = network(images.requires_grad_())
    gradient = torch.autograd.grad(scores[:, CLASS].sum(), seen)
    norms = [(each.transpose(0, 1) if sequence_first else each).detach().norm(dim=2) for each in (*seen, *gradient)]
    by_hand = (norms[0] * norms[1])[:, [place for place in range(25) if place != at]].view(2, 4, 6)
    for layer in ({}, {"layer": "blocks.1.norm1"}):
        found = explain(network, images.detach(), CLASS, method="normgrad", **layer)
        enlarged = F.interpolate(by_hand[:, None], images.shape[2:], mode="bilinear")[:, 0]
        torch.testing.assert_close(found, enlarged)
