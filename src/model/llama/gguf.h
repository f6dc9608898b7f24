#pragma once
// Names and orders of a Llama-kind model's linears in its GGUF file, as llama.cpp's convert_hf_to_gguf.py writes it.

#include <optional>

#include "moelora/io/gguf_layout.h"
#include "moelora/model/llama/config.h"

namespace moelora::model {

/// Architecture "llama" turns pairs (2i, 2i + 1) of a head, so its file has the rows of q and k reordered from the
/// pairs (i, i + head_dim/2) of the checkpoint; the others' files keep the checkpoint's rows. A fused gate and up
/// projection is the tensor ffn_up, the gate's rows first. Nothing: llama.cpp's architecture of this model type does
/// not turn heads as the configuration says.
std::optional<io::GgufLayout> gguf_layout(const LlamaConfig& config);

}  // namespace moelora::model
