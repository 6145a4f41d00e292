"""Candidates that are compiled; to decorate one imports torch's whole compiler, which takes seconds."""

import torch
from torch import nn


class Compiled(nn.Module):
    @torch.compile
    def forward(self, x):
        return x * torch.sigmoid(x)


class CompiledAsItIsMade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.function = torch.compile(nn.SiLU())

    def forward(self, x):
        return self.function(x)
