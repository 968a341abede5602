"""A language model fine-tuned by LoRA: only the adapters are trained and travel, the base lies on every machine."""

import math
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from hypergpu_fl.task import TorchTask


class FineTune(TorchTask):
    unit = "tokens"

    def model(self):
        base = LlamaForCausalLM.from_pretrained(Path(self.training.data_root) / "base")
        rank = self.training.options["rank"]
        return get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))

    def data(self, partition):
        if partition is None:
            return self.windows(0.95, 1.0)
        share = 0.9 / self.training.num_nodes
        return self.windows(partition * share, (partition + 1) * share)

    def validation(self):
        return self.windows(0.9, 0.95)

    def windows(self, begin, end):
        # The base's tokens are bytes. With a tokenizer: from_pretrained it beside the model, and add its name to
        # identity(), so that a node with another one is refused.
        text = (Path(self.training.data_root) / "text.txt").read_bytes()
        mine = bytearray(text[round(begin * len(text)) : round(end * len(text))])
        return torch.frombuffer(mine, dtype=torch.uint8).unfold(0, 65, 64)

    def count(self, batch):
        return len(batch) * (batch.shape[1] - 1)

    def loss(self, model, batch):
        return model(input_ids=batch.long(), labels=batch.long()).loss

    def summary(self, means):
        return {"perplexity": math.exp(means["loss"])}
