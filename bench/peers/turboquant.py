"""TurboQuant (Zandieh et al., arXiv 2504.19874): a random rotation, then the best scalar levels for a coordinate of a random
direction; every vector's length apart. Channels are split in two by their energy: each part is a TurboQuant of its own, and the
part with more energy gets more bits."""

import math

import torch

from torch_model import Folded


def levels(dim, bits):
    """Lloyd-Max levels for the density (1 - x^2)^((dim - 3) / 2)."""
    x = torch.linspace(-1, 1, 200001, dtype=torch.float64)
    density = (1 - x * x).clamp(min=0) ** ((dim - 3) / 2)
    centers = torch.linspace(-2.5, 2.5, 2**bits, dtype=torch.float64) / dim**0.5
    for _ in range(300):
        cell = torch.bucketize(x, (centers[1:] + centers[:-1]) / 2)
        mass = torch.zeros_like(centers).index_add_(0, cell, density)
        centers = torch.zeros_like(centers).index_add_(0, cell, density * x) / mass.clamp(min=1e-300)
    return centers.float()


class Instance:
    """One TurboQuant of `dim` channels: its mean-square form, or, with `unbiased`, its inner-product form: a bit less for the
    levels, and one sign per coordinate of a random projection of what they leave, whose length is kept, too."""

    def __init__(self, dim, bits, generator, unbiased=False):
        self.rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
        self.levels = levels(dim, bits - unbiased)
        self.projection = torch.randn(dim, dim, generator=generator) if unbiased else None

    def quantize(self, x):
        length = x.norm(dim=-1, keepdim=True).half().float()
        unit = x / length.clamp(min=1e-12)
        nearest = self.levels[torch.bucketize(unit @ self.rotation, (self.levels[1:] + self.levels[:-1]) / 2)]
        out = nearest @ self.rotation.T
        if self.projection is not None:
            rest = unit - out
            signs = torch.where(rest @ self.projection.T >= 0, 1.0, -1.0)
            scale = math.sqrt(math.pi / 2) / x.shape[-1] * rest.norm(dim=-1, keepdim=True).half().float()
            out = out + scale * (signs @ self.projection)
        return length * out


class TurboQuant:
    peer = "TurboQuant (simulated)"

    def __init__(self, bits, dim, energy, share=4, more=2, unbiased_keys=False):
        """bits: 2 or 3 for all but the `dim / share` channels of most energy, which get `more` bits beside them.
        energy: [K, V][layer][H_kv, dim], of another text."""
        self.bits, self.dim, self.energy, self.high = bits + more / share, dim, energy, dim // share
        self.name, self.unbiased_keys = f"turboquant{self.bits:g}", unbiased_keys
        generator = torch.Generator().manual_seed(1)
        pair = lambda unbiased: (Instance(self.high, bits + more, generator, unbiased),
                                 Instance(dim - self.high, bits, generator, unbiased))
        self.values = pair(False)
        self.keys = pair(True) if unbiased_keys else self.values

    def side(self, x, energy, instances):
        order = energy.argsort(-1, descending=True)[:, None].expand_as(x)
        parts = x.gather(2, order).split([self.high, self.dim - self.high], -1)
        folded = [instance.quantize(part) for instance, part in zip(instances, parts)]
        return torch.empty_like(x).scatter_(2, order, torch.cat(folded, -1))

    def fold(self, layer, keys, values, rotate):
        rotated = rotate(keys)
        return Folded(rotated, values, self.side(rotated, self.energy[0][layer], self.keys),
                      self.side(values, self.energy[1][layer], self.values))

    def bits_of(self, *_):
        lengths = 2 * 16 / self.dim  # of both parts; an unbiased side keeps two more
        page = self.bits + lengths * (1.5 if self.unbiased_keys else 1)
        return page, page
