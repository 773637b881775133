"""TurboQuant (Zandieh et al., arXiv 2504.19874), its mean-square form: a random rotation, then the best scalar levels for
a coordinate of a random direction; every vector's length apart. Channels of the most energy get a bit more."""

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


class TurboQuant:
    peer = "TurboQuant (simulated)"

    def __init__(self, bits, dim, energy):
        """bits: 2.5 or 3.5; half of the channels get the bit above. energy: [K, V][layer][H_kv, dim], of another text."""
        self.name, self.bits, self.dim = f"turboquant{bits}", bits, dim
        self.energy, self.half = energy, dim // 2
        generator = torch.Generator().manual_seed(1)
        self.rotations = [torch.linalg.qr(torch.randn(self.half, self.half, generator=generator))[0] for _ in range(2)]
        self.levels = [levels(self.half, int(bits) + more) for more in (1, 0)]

    def quantize(self, x, rotation, centers):
        length = x.norm(dim=-1, keepdim=True).half().float()
        turned = x / length.clamp(min=1e-12) @ rotation
        nearest = centers[torch.bucketize(turned, (centers[1:] + centers[:-1]) / 2)]
        return length * (nearest @ rotation.T)

    def side(self, x, energy):
        order = energy.argsort(-1, descending=True)[:, None].expand_as(x)
        parts = [self.quantize(part, rotation, centers)
                 for part, rotation, centers in zip(x.gather(2, order).chunk(2, -1), self.rotations, self.levels)]
        return torch.empty_like(x).scatter_(2, order, torch.cat(parts, -1))

    def fold(self, layer, keys, values, rotate):
        rotated = rotate(keys)
        return Folded(rotated, values, self.side(rotated, self.energy[0][layer]),
                      self.side(values, self.energy[1][layer]))

    def bits_of(self, *_):
        page = self.bits + 2 * 16 / self.dim  # two lengths
        return page, page
