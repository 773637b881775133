"""KIVI (Liu et al., ICML 2024, arXiv 2402.02750): keys per channel, values per token, the newest tokens in 16 bits."""

from torch_model import Folded

GROUP = 32     # values that share a scale and a zero point, 16 bits each
RESIDUAL = 128  # newest tokens that stay unfolded


def uniform(x, bits):
    """x [..., GROUP]: asymmetric, rounded to nearest."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-8)
    return ((x - low) / step).round() * step + low


class Kivi:
    peer = "KIVI (simulated)"

    def __init__(self, bits):
        self.bits, self.name = bits, f"kivi{bits}"

    def fold(self, _, keys, values, rotate):
        rotated = rotate(keys)
        whole = rotated.shape[1] // GROUP * GROUP  # what is left over is never folded
        folded = rotated.clone()
        groups = rotated[:, :whole].unflatten(1, (-1, GROUP)).transpose(2, 3)
        folded[:, :whole] = uniform(groups, self.bits).transpose(2, 3).flatten(1, 2)
        by_token = uniform(values.unflatten(2, (-1, GROUP)), self.bits).flatten(2)
        # Keys are folded when RESIDUAL of them have come together, values one by one as they grow old.
        return Folded(rotated, values, folded, by_token, lambda i, j: j >= i // RESIDUAL * RESIDUAL,
                      lambda i, j: j > i - RESIDUAL)

    def bits_of(self, context, _):
        page = self.bits + 32 / GROUP
        unfolded = (context % RESIDUAL + min(context, RESIDUAL)) / (2 * context)  # after the last token
        return page, page + (16 - page) * unfolded
