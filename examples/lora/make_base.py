"""Makes what you would download: a small Llama, trained on one text and saved. `python make_base.py TEXT FOLDER`."""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def make_base(text, folder, steps=300, width=64, layers=2):
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, num_attention_heads=4, max_position_embeddings=256, **shape))
    windows = torch.frombuffer(bytearray(text), dtype=torch.uint8).unfold(0, 65, 64)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        batch = windows[torch.randint(len(windows), (16,))].long()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


if __name__ == "__main__":
    make_base(Path(sys.argv[1]).read_bytes(), sys.argv[2])
