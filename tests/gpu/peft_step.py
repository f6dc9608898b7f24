#!/usr/bin/env python3
"""Row 9's yardstick: transformers + PEFT LoRA (rank 16, dropout 0.1, the four linears of a block) on samples of the same
lengths, in padded batches of four, AdamW. GPT-NeoX is ChatGLM-6B's graph but for its mask and positions: the same linears
of the same sizes. Prints one JSON line; exit code 3 where transformers or PEFT are not installed.

    peft_step.py LENGTHS.json --device cuda:0 --shape 6b --dtype float16

LENGTHS.json is the line that `moelora_gpu_bench lengths` prints.
"""

import argparse
import json
import sys
import time

SHAPES = {"6b": (130528, 4096, 28, 32, 16384), "small": (8192, 1024, 8, 16, 4096), "tiny": (8192, 64, 3, 4, 256)}
BATCH = 4
ROUNDS = 5


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("lengths")
    arguments.add_argument("--device", default="cuda:0")
    arguments.add_argument("--shape", default="6b", choices=SHAPES)
    arguments.add_argument("--dtype", default="float16")
    options = arguments.parse_args()
    try:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    except ImportError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 3

    with open(options.lengths, encoding="utf-8") as stream:
        lengths = json.load(stream)["lengths"]
    vocab, hidden, layers, heads, inner = SHAPES[options.shape]
    config = GPTNeoXConfig(vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                           intermediate_size=inner, max_position_embeddings=2048, use_parallel_residual=False,
                           use_cache=False)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, options.dtype))
    with torch.device(options.device):
        model = GPTNeoXForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    targets = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.1, target_modules=targets))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    batches = []
    for first in range(0, len(lengths), BATCH):
        some = lengths[first:first + BATCH]
        longest = max(length for length, _ in some)
        ids = torch.randint(0, 8000, (len(some), longest))
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for i, (length, label_begin) in enumerate(some):
            mask[i, :length] = 1
            labels[i, label_begin:length] = ids[i, label_begin:length]
        batches.append([tensor.to(options.device) for tensor in (ids, mask, labels)])

    def step():
        for ids, mask, labels in batches:
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss / len(batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if options.device != "cpu":
            torch.cuda.synchronize()

    step()
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    seconds = sorted(times)[len(times) // 2]
    print(json.dumps({"peft_samples_per_second": len(lengths) / seconds, "seconds": seconds, "dtype": options.dtype,
                      "what": "transformers + PEFT LoRA, padded batches of 4"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
