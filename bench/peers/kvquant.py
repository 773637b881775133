"""KVQuant (Hooper et al., NeurIPS 2024, arXiv 2401.18079): keys before RoPE per channel with offline ranges, values per
token, one table of non-uniform levels per layer and side by k-means weighted with the Fisher information, 1 % of the
values apart in 16 bits, the first token unfolded, Q-Norm at 2 bits."""

import torch

from torch_model import Folded

OUTLIERS = 0.01
INSIDE = 1 + 1e-5  # of a range's half width: the values at its ends may be rounded beyond it
BINS = 4096  # of the histogram that k-means runs on


def weighted_levels(x, weight, bits):
    """k-means of values in [-1, 1]: [2^bits] ascending."""
    cell = ((x + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    mass = torch.zeros(BINS, dtype=torch.float64).index_add_(0, cell, weight.double())
    moment = torch.zeros(BINS, dtype=torch.float64).index_add_(0, cell, (weight * x).double())
    share = (mass.cumsum(0) / mass.sum()).contiguous()
    at = torch.searchsorted(share, (torch.arange(2**bits, dtype=torch.float64) + 0.5) / 2**bits)
    middle = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 / BINS) - 1
    centers = middle[at.clamp(max=BINS - 1)]
    for _ in range(200):
        nearest = torch.bucketize(middle, (centers[1:] + centers[:-1]) / 2)
        total = torch.zeros_like(centers).index_add_(0, nearest, mass)
        sums = torch.zeros_like(centers).index_add_(0, nearest, moment)
        centers = torch.where(total > 0, sums / total, centers)
    return centers.float()


def pick(x, centers):
    return centers[torch.bucketize(x, (centers[1:] + centers[:-1]) / 2)]


def ranges(x, axis):
    """Middle and half width of all but the outliers, along `axis`."""
    low = x.quantile(OUTLIERS / 2, axis, keepdim=True)
    high = x.quantile(1 - OUTLIERS / 2, axis, keepdim=True)
    return middle_and_half(low, high)


def inner_ranges(x):
    """The same per row, as far as what is left reaches: thresholds found online may lie between two values."""
    low, high = (x.quantile(share, 1, keepdim=True) for share in (OUTLIERS / 2, 1 - OUTLIERS / 2))
    inside = (low < x) & (x < high)
    return middle_and_half(x.masked_fill(~inside, torch.inf).amin(1, keepdim=True),
                           x.masked_fill(~inside, -torch.inf).amax(1, keepdim=True))


def middle_and_half(low, high):
    return (high + low) / 2, ((high - low) / 2).clamp(min=1e-8)


class KvQuant:
    peer = "KVQuant-1% (simulated)"

    def __init__(self, bits, samples, fisher=True):
        """samples: per layer (keys before RoPE, values, squared gradients of both), [tokens, H_kv * dim] each. Without
        `fisher` every squared error weighs the same."""
        self.name, self.bits, self.fisher = f"nuq{bits}", bits, fisher
        self.key_ranges, self.tables = [], []
        for keys, values, key_fisher, value_fisher in samples:
            self.key_ranges.append(ranges(keys, 0))
            self.tables.append((self.table(keys, self.key_ranges[-1], key_fisher),
                                self.table(values, inner_ranges(values), value_fisher)))
        self.apart, self.seen = 0, 0

    def table(self, x, limits, fisher):
        normal = (x - limits[0]) / limits[1]
        inside = normal.abs() <= INSIDE
        # Errors count as they are in the values' own units: a wide range makes its own larger.
        weight = (fisher if self.fisher else torch.ones_like(fisher)) * limits[1].square()
        normal, weight = normal[inside], weight[inside]
        centers = weighted_levels(normal, weight, self.bits)
        if self.bits == 2:  # Q-Norm: the levels keep the distribution's mean and deviation
            chosen = pick(normal, centers)
            centers = (centers - chosen.mean()) * (normal.std() / chosen.std()) + normal.mean()
        return centers

    def side(self, x, limits, centers):
        normal = (x - limits[0]) / limits[1]
        outside = normal.abs() > INSIDE
        self.apart += outside.sum().item()
        self.seen += outside.numel()
        out = torch.where(outside, x.half().float(), pick(normal, centers) * limits[1] + limits[0])
        out[0] = x[0]  # the attention sink
        return out

    def fold(self, layer, keys, values, rotate):
        flat = lambda x: x.transpose(0, 1).flatten(1)
        back = lambda x: x.unflatten(1, (keys.shape[0], -1)).transpose(0, 1)
        key_levels, value_levels = self.tables[layer]
        by_token = flat(values)
        folded_keys = back(self.side(flat(keys), self.key_ranges[layer], key_levels))
        folded_values = back(self.side(by_token, inner_ranges(by_token), value_levels))
        return Folded(rotate(keys), values, rotate(folded_keys), folded_values)

    def bits_of(self, context, width):
        # An outlier is a value and a place, 16 bits each; a token's values have a scale and a zero point.
        page = self.bits + 32 * self.apart / self.seen + 32 / width / 2
        return page, page + (16 - page) / context
