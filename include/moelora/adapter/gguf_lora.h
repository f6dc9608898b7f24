#pragma once
// One task of an adapter as a LoRA of llama.cpp: a GGUF file with general.type "adapter", adapter.type "lora" and, for
// each linear, TENSOR.lora_a [r, d_in] and TENSOR.lora_b [d_out, r] in fp32.
// Layout: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-adapter.cpp (reading), convert_lora_to_gguf.py.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "moelora/adapter/adapter.h"
#include "moelora/io/gguf_layout.h"

namespace moelora {

/// As export_peft (adapter/foreign.h), padding included, into one file. `layout` is the base's: rows of lora_b are
/// ordered as it orders the linear's own. llama.cpp computes adapter.lora.alpha / r in fp32. Error also: a linear that
/// the layout lacks.
void export_gguf_lora(const AdapterImpl& adapter, std::string_view task, const std::filesystem::path& file,
                      const io::GgufLayout& layout, std::int64_t padded_rank = 0);

/// Reads such a file onto `base`, as an adapter of one task. Error naming what is missing, unknown to the layout,
/// misshapen, not finite, or of another architecture than the layout's.
Adapter load_gguf_lora(torch::nn::Module& base, const std::filesystem::path& file, const io::GgufLayout& layout,
                       const std::string& task = "default", const std::string& name = "default");

}  // namespace moelora
