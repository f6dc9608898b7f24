"""peft_check.py MODEL FOLDER: does Python's PEFT compute the merged model's logits from the exported task?

MODEL is a ChatGLM folder (config.json, model.safetensors); FOLDER is what dump_logits wrote. The graph below follows
the published formulas of ChatGLM-6B; PEFT wraps its nn.Linear layers, which have the checkpoint's names.
"""

import json
import math
import pathlib
import sys

import peft
import torch
from safetensors.torch import load_file
from torch import nn

TOLERANCE = 1e-4
RESIDUAL = math.sqrt(2 * 28)


def rotate(x, positions):
    """x [rows, heads, d] with pairs (i, i + d/2) turned by position * 10000^(-2i/d), rounded to half as published."""
    width = x.shape[-1]
    frequency = (10000 ** (-torch.arange(0, width, 2).float() / width)).half().float()
    angles = torch.cat([positions[:, None].float() * frequency] * 2, dim=-1)[:, None, :]
    half = width // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * angles.cos() + turned * angles.sin()


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, x, positions, mask):
        rows, hidden = x.shape
        q, k, v = self.query_key_value(x).view(rows, self.heads, -1).chunk(3, dim=-1)
        q, k = (torch.cat([rotate(part, positions[i]) for i, part in enumerate(t.chunk(2, dim=-1))], dim=-1)
                for t in (q, k))
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(hidden // self.heads)
        weights = scores.masked_fill(mask, float("-inf")).softmax(dim=-1)
        return self.dense(torch.einsum("hij,jhd->ihd", weights, v).reshape(rows, hidden))


class Mlp(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden, inner)
        self.dense_4h_to_h = nn.Linear(inner, hidden)

    def forward(self, x):
        return self.dense_4h_to_h(nn.functional.gelu(self.dense_h_to_4h(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, epsilon = config["hidden_size"], config["layernorm_epsilon"]
        self.input_layernorm = nn.LayerNorm(hidden, epsilon)
        self.attention = Attention(hidden, config["num_attention_heads"])
        self.post_attention_layernorm = nn.LayerNorm(hidden, epsilon)
        self.mlp = Mlp(hidden, config["inner_hidden_size"])

    def forward(self, x, positions, mask):
        a = self.input_layernorm(x)
        m = self.post_attention_layernorm(a * RESIDUAL + self.attention(a, positions, mask))
        return m * RESIDUAL + self.mlp(m)


class ChatGlm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = {"model_type": "chatglm"}
        hidden = config["hidden_size"]
        self.transformer = nn.Module()
        self.transformer.word_embeddings = nn.Embedding(config["vocab_size"], hidden)
        self.transformer.layers = nn.ModuleList(Block(config) for _ in range(config["num_layers"]))
        self.transformer.final_layernorm = nn.LayerNorm(hidden, config["layernorm_epsilon"])
        self.lm_head = nn.Linear(hidden, config["vocab_size"], bias=False)

    def prepare_inputs_for_generation(self, *args, **kwargs):
        raise NotImplementedError  # PEFT asks for it; nothing here generates

    def forward(self, ids, context):
        """One sequence: its first `context` tokens attend to each other both ways, the others backwards only."""
        index = torch.arange(len(ids))
        positions = torch.stack([index.clamp(max=context - 1), (index - context + 1).clamp(min=0)])
        mask = (index[None, :] >= context) & (index[None, :] > index[:, None])
        x = self.transformer.word_embeddings(ids)
        for block in self.transformer.layers:
            x = block(x, positions, mask)
        return self.lm_head(self.transformer.final_layernorm(x))


def all_logits(model, data):
    parts = []
    begin = 0
    for length, context in zip(data["lengths"].tolist(), data["context"].tolist()):
        parts.append(model(data["ids"][begin:begin + length], context))
        begin += length
    return torch.cat(parts)


@torch.no_grad()
def main(model_folder, folder):
    model = ChatGlm(json.loads((model_folder / "config.json").read_text()))
    weights = load_file(model_folder / "model.safetensors")
    model.load_state_dict({name: value for name, value in weights.items() if not name.endswith("inv_freq")})
    data = load_file(folder / "logits.safetensors")
    plain = all_logits(model.eval(), data)
    wrapped = peft.PeftModel.from_pretrained(model, str(folder / "peft")).eval()
    adapted = all_logits(wrapped.base_model.model, data)
    difference = (adapted - data["logits"]).abs().max().item()
    effect = (adapted - plain).abs().max().item()
    print(f"peft {peft.__version__}, torch {torch.__version__}: {data['logits'].numel()} logits, largest difference "
          f"{difference:.3g} (allowed {TOLERANCE:g}); the adapter itself moves logits by up to {effect:.3g}")
    return 0 if difference <= TOLERANCE < effect else 1


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
