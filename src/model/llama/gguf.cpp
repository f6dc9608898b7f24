#include "model/llama/gguf.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moelora::model {
namespace {

struct Architecture {
  std::string_view model_type;
  const char* name;
  bool interleaves;  ///< Rows of q and k are reordered on conversion.
};
constexpr std::array<Architecture, 6> kArchitectures{{{"llama", "llama", true},
                                                      {"mistral", "llama", true},
                                                      {"qwen2", "qwen2", false},
                                                      {"qwen3", "qwen3", false},
                                                      {"glm", "chatglm", false},
                                                      {"glm4", "glm4", false}}};

/// The rows of `heads` heads so that the halves of a pair are neighbours: row 2i + j of a head was i + j · head_dim/2.
std::vector<std::int64_t> interleaved_pairs(std::int64_t heads, std::int64_t head_dim) {
  std::vector<std::int64_t> rows;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < head_dim; ++i) {
      rows.push_back(head * head_dim + i / 2 + i % 2 * (head_dim / 2));
    }
  }
  return rows;
}

}  // namespace

std::optional<io::GgufLayout> gguf_layout(const LlamaConfig& config) {
  const Architecture* architecture = nullptr;
  for (const Architecture& candidate : kArchitectures) {
    architecture = candidate.model_type == config.model_type ? &candidate : architecture;
  }
  // Turning a share of a head and pairing neighbours go together in llama.cpp: only its GLMs do either.
  const bool neighbours = config.pairing == nn::RotaryPairing::interleaved;
  if (architecture == nullptr || neighbours != config.model_type.starts_with("glm") ||
      (!neighbours && config.rotary_dim() != config.head_dim)) {
    return std::nullopt;
  }
  io::GgufLayout layout{architecture->name, {}};
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::string ours = "model.layers." + std::to_string(layer) + ".";
    const std::string theirs = "blk." + std::to_string(layer) + ".";
    const auto add = [&](const char* linear, const char* tensor, std::vector<std::int64_t> rows = {}) {
      layout.linears[ours + linear] = {theirs + tensor + ".weight", std::move(rows)};
    };
    const auto turned = [&](std::int64_t heads) {
      return architecture->interleaves ? interleaved_pairs(heads, config.head_dim) : std::vector<std::int64_t>();
    };
    add("self_attn.q_proj", "attn_q", turned(config.num_attention_heads));
    add("self_attn.k_proj", "attn_k", turned(config.num_key_value_heads));
    add("self_attn.v_proj", "attn_v");
    add("self_attn.o_proj", "attn_output");
    if (config.fused_gate_up) {
      add("mlp.gate_up_proj", "ffn_up");
    } else {
      add("mlp.gate_proj", "ffn_gate");
      add("mlp.up_proj", "ffn_up");
    }
    add("mlp.down_proj", "ffn_down");
  }
  return layout;
}

}  // namespace moelora::model
