"""Perplexity and divergence as quire-ppl counts them, and rows with the keys of frontier.json."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch


class Scorer:
    """Takes logits row block by row block. Rows of the first run are kept in a nameless file as the reference."""

    def __init__(self):
        self.file = tempfile.TemporaryFile(prefix="quire-peers-")
        self.reference = None

    def begin(self):
        self.rows, self.nll, self.divergence, self.same = 0, 0.0, [], 0
        self.file.seek(0)

    def add(self, logits, targets):
        """logits [n, vocabulary] float32, targets [n]."""
        log_q = torch.log_softmax(logits, -1)
        self.nll -= log_q.gather(1, targets[:, None]).double().sum().item()
        self.rows += len(targets)
        if self.reference is None:
            self.file.write(logits.numpy().tobytes())
            self.divergence.append(torch.zeros(len(targets)))
            self.same += len(targets)
            return
        bytes_ = self.file.read(4 * logits.numel())
        reference = torch.from_numpy(np.frombuffer(bytes_, np.float32).reshape(logits.shape).copy())
        log_p = torch.log_softmax(reference, -1)
        self.divergence.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0))
        self.same += (reference.argmax(-1) == logits.argmax(-1)).sum().item()

    def end(self):
        """The run's figures."""
        ppl = math.exp(self.nll / self.rows)
        if self.reference is None:
            self.reference = ppl
        divergence = torch.cat(self.divergence).sort().values.double()
        return {"ppl": ppl, "ppl_ref": self.reference, "kld_mean": divergence.mean().item(),
                "kld_p999": divergence[math.ceil(0.999 * self.rows) - 1].item(), "same_top1": self.same / self.rows}


def model_name(path):
    path = Path(path)
    return path.name if path.is_dir() else path.stem


def row(model, context, peer, codecs, bits, figures):
    """codecs: of keys and values; bits: of a page and in all."""
    return {"model": model_name(model), "text": "King James", "context": context, "codec": "/".join(codecs),
            "k_codec": codecs[0], "v_codec": codecs[1], "peer": peer, "effective_bits": bits[1], "page_bits": bits[0],
            **figures}


def report(made):
    print(f"{made['context']:6} {made['peer']:24} {made['codec']:16} {made['page_bits']:6.2f} {made['ppl']:9.4f} "
          f"{100 * (made['ppl'] / made['ppl_ref'] - 1):+7.2f}% {made['kld_mean']:.5f} {made['kld_p999']:8.4f} "
          f"{made['same_top1']:.4f}", flush=True)


def write(path, rows):
    Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
