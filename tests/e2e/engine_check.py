"""engine_check.py ENGINE MODEL FOLDER: do other programs compute what this library computes?

MODEL is a model folder of Hugging Face; FOLDER is what engines_test.sh filled: TASK.safetensors and base.safetensors
(ids, logits beside the weights and folded into them, a greedy continuation), peft/TASK, padded/TASK, gguf/TASK.gguf,
merged/TASK.
ENGINE: peft (transformers with PEFT), merged (transformers with merged models) or llama_cpp (llama-cpp-py-sync).
"""

import json
import pathlib
import sys

TOLERANCE = 1e-4


class Report:
    def __init__(self, engine):
        self.engine, self.ok, self.base = engine, True, None

    def add(self, name, expected, logits, greedy, recorded="logits"):
        """Logits by sequence and greedy ids against the dump; `effect`: how far the task moves the base's logits."""
        difference = max(float(abs(logits[i] - expected[f"{recorded}.{i}"]).max()) for i in range(len(logits)))
        same = list(greedy) == expected["greedy"].tolist()
        line = f"  {self.engine} {name}: largest difference {difference:.3g} (allowed {TOLERANCE:g}), greedy ids " \
            f"{'equal' if same else 'DIFFER: ' + str(list(greedy)) + ' not ' + str(expected['greedy'].tolist())}"
        good = difference <= TOLERANCE and same
        if name == "base":
            self.base = logits
        elif self.base is not None:
            effect = max(float(abs(a - b).max()) for a, b in zip(logits, self.base))
            line += f"; the task itself moves logits by up to {effect:.3g}"
            good = good and effect > 100 * TOLERANCE
        self.ok = self.ok and good
        print(line + ("" if good else "  <-- FAILED"), flush=True)


def load_dump(folder, name):
    from safetensors.numpy import load_file
    return load_file(folder / f"{name}.safetensors")


def tasks_of(folder):
    return json.loads((folder / "adapter" / "adapter.json").read_text())["tasks"]


def check_transformers(model, expected, report, name, recorded="logits"):
    import torch
    count = sum(key.startswith("sequence.") for key in expected)
    with torch.no_grad():
        logits = [model(torch.from_numpy(expected[f"sequence.{i}"])[None]).logits[0].float().numpy()
                  for i in range(count)]
        ids = expected["prompt"].tolist()
        greedy = []
        for _ in range(len(expected["greedy"])):  # no end token, no generation settings: the plain argument
            greedy.append(int(model(torch.tensor([ids + greedy])).logits[0, -1].argmax()))
    report.add(name, expected, logits, greedy, recorded)


def open_transformers(folder):
    import torch
    import transformers
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def peft_engine(model_folder, folder, report):
    import peft
    check_transformers(open_transformers(model_folder), load_dump(folder, "base"), report, "base")
    for kind in ("peft", "padded"):
        for task in tasks_of(folder):
            adapted = peft.PeftModel.from_pretrained(open_transformers(model_folder), str(folder / kind / task)).eval()
            check_transformers(adapted, load_dump(folder, task), report, f"{kind}/{task}")
    # As a user does it: the base is found through the adapter's own base_model_name_or_path.
    task = tasks_of(folder)[0]
    auto = peft.AutoPeftModelForCausalLM.from_pretrained(str(folder / "peft" / task)).float().eval()
    check_transformers(auto, load_dump(folder, task), report, f"peft/{task} by base_model_name_or_path")


def merged_engine(model_folder, folder, report):
    check_transformers(open_transformers(model_folder), load_dump(folder, "base"), report, "base")
    for task in tasks_of(folder):
        check_transformers(open_transformers(folder / "merged" / task), load_dump(folder, task), report,
                           f"merged/{task}", "merged_logits")


ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "glm": "chatglm"}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_name(name):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in fixed:
        return fixed[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    module, end = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[module]}.{end}"


def write_base(model_folder, path):
    """The base as llama.cpp's convert_hf_to_gguf.py writes it, in fp32 and without a vocabulary."""
    import gguf
    import numpy
    from safetensors.numpy import load_file
    config = json.loads((model_folder / "config.json").read_text())
    arch = ARCHITECTURES[config["model_type"]]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0),
                                             **(config.get("rope_scaling") or {})}
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    if rope.get("rope_type", "default") == "llama3":
        base, low, high = rope["rope_theta"], rope["low_freq_factor"], rope["high_freq_factor"]
        original = rope["original_max_position_embeddings"]
        factors = []
        for frequency in 1.0 / base ** (numpy.arange(0, head_dim, 2, dtype=numpy.float32) / head_dim):
            wavelength = 2 * numpy.pi / frequency
            smooth = min(max((original / wavelength - low) / (high - low), 0.0), 1.0)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
        writer.add_tensor("rope_freqs.weight", numpy.array(factors, dtype=numpy.float32))
    elif rope.get("rope_type", "default") != "default":
        raise SystemExit(f"rope_type {rope['rope_type']} is not written by this check")
    for name, value in load_file(model_folder / "model.safetensors").items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        for part, count in {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.items():
            if arch == "llama" and part in name:
                value = value.reshape(count, 2, head_dim // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(gguf_name(name), numpy.ascontiguousarray(value, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """llama.cpp's own C functions, by the declarations that the package carries for the library in it."""

    def __init__(self, path):
        from llama_cpp_py_sync import _cffi_bindings
        self.ffi, self.lib = _cffi_bindings.get_ffi(), _cffi_bindings.get_lib()
        self.lib.llama_backend_init()
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers, params.use_extra_bufts = 0, False  # weights as they are, not repacked
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"llama.cpp does not load {path}"
        self.vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        params = self.lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = 256
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = 0  # GGML_TYPE_F32: by default keys and values are kept in fp16
        params.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = self.lib.llama_init_from_model(self.model, params)
        assert self.context, f"llama.cpp makes no context of {path}"

    def use(self, adapter):
        """Sets the one LoRA in use; None: none."""
        loaded = []
        if adapter is not None:
            loaded = [self.lib.llama_adapter_lora_init(self.model, str(adapter).encode())]
            assert loaded[0], f"llama.cpp refuses {adapter}"
        handles = self.ffi.new("struct llama_adapter_lora *[]", loaded or 1)
        scales = self.ffi.new("float[]", [1.0] * len(loaded) or 1)
        code = self.lib.llama_set_adapters_lora(self.context, handles, len(loaded), scales)
        assert code == 0, f"llama.cpp did not set {adapter}: {code}"

    def logits(self, ids):
        """[rows, vocabulary] of one sequence."""
        import numpy
        lib = self.lib
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        batch = lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
            batch.seq_id[i][0] = 0
        code = lib.llama_decode(self.context, batch)
        assert code == 0, f"llama_decode: {code}"
        size = 4 * self.vocabulary
        rows = [numpy.frombuffer(self.ffi.buffer(lib.llama_get_logits_ith(self.context, i), size),
                                 numpy.float32).copy() for i in range(len(ids))]
        lib.llama_batch_free(batch)
        return numpy.stack(rows)


def llama_cpp_engine(model_folder, folder, report):
    base = folder / "base.gguf"
    write_base(model_folder, base)
    engine = LlamaCpp(base)
    for name in ["base", *tasks_of(folder)]:
        for kind in ("gguf", "gguf-padded") if name != "base" else ("gguf",):
            engine.use(None if name == "base" else folder / kind / f"{name}.gguf")
            expected = load_dump(folder, name)
            count = sum(key.startswith("sequence.") for key in expected)
            logits = [engine.logits(expected[f"sequence.{i}"]) for i in range(count)]
            ids = expected["prompt"].tolist()
            greedy = []
            for _ in range(len(expected["greedy"])):
                greedy.append(int(engine.logits(ids + greedy)[-1].argmax()))
            report.add(name if name == "base" else f"{kind}/{name}", expected, logits, greedy)


def main(engine, model_folder, folder):
    report = Report(engine)
    {"peft": peft_engine, "merged": merged_engine, "llama_cpp": llama_cpp_engine}[engine](model_folder, folder, report)
    return 0 if report.ok and report.base is not None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])))
