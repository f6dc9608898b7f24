#pragma once
// The graph of decoders of the Llama kind in packed rows. Parameters carry the names of Hugging Face checkpoints, and a
// variant is data of its LlamaConfig.
//
//   y = x + o_proj(attention(q, k, v))   q, k, v of rms(x), q and k normalised by head (qwen3), then turned
//   z = y + down_proj(silu(g) · u)       g, u of rms(y) by gate_proj and up_proj, or the halves of gate_up_proj
//
// GLM-4-0414 normalises what attention and MLP give once more before it is added.

#include <torch/nn/modules/container/modulelist.h>

#include <memory>
#include <string>

#include "moelora/model/causal_lm.h"
#include "moelora/model/layer_input.h"
#include "moelora/model/llama/config.h"
#include "moelora/model/llama/rotary.h"
#include "moelora/model/weights.h"
#include "moelora/nn/embedding.h"
#include "moelora/nn/linear.h"
#include "moelora/nn/rms_norm.h"

namespace moelora::model {

/// The checkpoint's tensors; lm_head.weight last, which is the embedding where tie_word_embeddings says so.
ExpectedTensors expected_tensors(const LlamaConfig& config);

class LlamaAttentionImpl : public torch::nn::Module {
 public:
  LlamaAttentionImpl(const LlamaConfig& config, const TensorSource& source, const std::string& prefix);
  /// x [rows, hidden] → [rows, hidden], or only output_rows [n] → [n, hidden].
  at::Tensor forward(const at::Tensor& x, const LayerInput& input);
  std::int64_t heads() const { return heads_; }
  std::int64_t kv_heads() const { return kv_heads_; }
  std::int64_t head_dim() const { return head_dim_; }
  nn::Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, o_proj{nullptr};
  nn::RmsNorm q_norm{nullptr}, k_norm{nullptr};  ///< over each head; null: none

 private:
  std::int64_t heads_;
  std::int64_t kv_heads_;
  std::int64_t head_dim_;
};
TORCH_MODULE(LlamaAttention);

class LlamaMlpImpl : public torch::nn::Module {
 public:
  LlamaMlpImpl(const LlamaConfig& config, const TensorSource& source, const std::string& prefix);
  at::Tensor forward(const at::Tensor& x, const nn::RowContext& context);
  nn::Linear gate_proj{nullptr}, up_proj{nullptr};  ///< null: gate_up_proj is there
  nn::Linear gate_up_proj{nullptr};                 ///< [2 · intermediate, hidden], the gate's rows first
  nn::Linear down_proj{nullptr};
};
TORCH_MODULE(LlamaMlp);

class LlamaBlockImpl : public torch::nn::Module {
 public:
  LlamaBlockImpl(const LlamaConfig& config, const TensorSource& source, const std::string& prefix);
  /// As LlamaAttention's. One autograd function where the block's weights are frozen (training an adapter), plain
  /// operations otherwise.
  at::Tensor forward(const at::Tensor& x, const LayerInput& input);
  /// By plain operations always: the readable reference that tests compare with.
  at::Tensor forward_reference(const at::Tensor& x, const LayerInput& input);
  nn::RmsNorm input_layernorm{nullptr};
  LlamaAttention self_attn{nullptr};
  nn::RmsNorm post_self_attn_layernorm{nullptr};  ///< of what attention gives; null: none
  nn::RmsNorm post_attention_layernorm{nullptr};  ///< of what the MLP takes
  LlamaMlp mlp{nullptr};
  nn::RmsNorm post_mlp_layernorm{nullptr};  ///< of what the MLP gives; null: none
};
TORCH_MODULE(LlamaBlock);

class LlamaDecoderImpl : public torch::nn::Module {
 public:
  LlamaDecoderImpl(const LlamaConfig& config, const TensorSource& source, const std::string& prefix);
  nn::Embedding embed_tokens{nullptr};
  torch::nn::ModuleList layers;
  nn::RmsNorm norm{nullptr};
};
TORCH_MODULE(LlamaDecoder);

class LlamaImpl : public CausalLM {
 public:
  explicit LlamaImpl(const LlamaConfig& config, const TensorSource& source = random_tensors(0));

  at::Tensor hidden(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                    const ForwardOptions& options = {}) override;
  void visit_outputs(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                     const OutputVisitor& visit) override;
  at::Tensor head_weight() const override { return lm_head->weight; }
  at::Tensor logits(const at::Tensor& hidden_rows) override { return lm_head->forward(hidden_rows); }
  at::Tensor positions(const nn::Segments& segments) const override;
  at::Tensor position_at(std::int64_t bidirectional_rows, std::int64_t index) const override;
  ModelShape shape() const override { return config_.shape(); }
  std::optional<StepCost> step_cost(const Workload& load, std::int64_t recomputed_blocks) const override;

  const LlamaConfig& config() const { return config_; }
  LlamaBlockImpl& block(std::int64_t layer) { return *model->layers[layer]->as<LlamaBlock>(); }
  nn::Rotary rotary(const at::Tensor& positions, const nn::RowContext& context, at::ScalarType dtype) const {
    return rotary_.tables(positions, context, dtype);
  }

  LlamaDecoder model{nullptr};
  nn::Linear lm_head{nullptr};

 private:
  LlamaConfig config_;
  LlamaRotary rotary_;
};
TORCH_MODULE(Llama);

}  // namespace moelora::model
