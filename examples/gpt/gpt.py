"""A GPT over the characters (bytes) of a text: 1.3 million parameters, perplexity."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from hypergpu_fl.task import TorchTask


class GPT(nn.Module):
    def __init__(self, width, layers, heads, context):
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256))

    def forward(self, tokens_BT):
        length = tokens_BT.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens_BT.device)
        x_BTW = self.token(tokens_BT) + self.place.weight[:length]
        for layer in self.layers:
            x_BTW = layer(x_BTW, mask, is_causal=True)
        return self.head(x_BTW)


class Text(TorchTask):
    unit = "tokens"
    clip_norm = 1.0

    def model(self):
        return GPT(*(self.training.options[name] for name in ("width", "layers", "heads", "context")))

    def data(self, partition):
        share = 0.9 / self.training.num_nodes  # each node has a stretch of the text to itself
        return self.windows(0.95, 1) if partition is None else self.windows(partition * share, (partition + 1) * share)

    def validation(self):
        return self.windows(0.9, 0.95)

    def windows(self, begin, end):
        text = (Path(self.training.data_root) / self.training.options["text"]).read_bytes()
        mine = bytearray(text[round(begin * len(text)) : round(end * len(text))])
        context = self.training.options["context"]
        return torch.frombuffer(mine, dtype=torch.uint8).unfold(0, context + 1, context)

    def count(self, batch):
        return len(batch) * (batch.shape[1] - 1)

    def loss(self, model, batch):
        tokens = batch.long()
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def summary(self, means):
        return {"perplexity": math.exp(means["loss"])}
