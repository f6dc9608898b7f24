#pragma once
// The graph of ChatGLM-6B in packed rows. Parameters carry the names of the Hugging Face checkpoint.
//
// Block l: a = LN1(x); x = a·α + Attn(a); m = LN2(x); x = m·α + MLP(m), α = sqrt(2·28): the residual takes the
// normalised value. query_key_value is laid out per head as [heads, 3·head_dim]; GELU is the tanh form.

#include <torch/nn/modules/container/modulelist.h>

#include <memory>
#include <string>
#include <vector>

#include "moelora/model/causal_lm.h"
#include "moelora/model/chatglm/config.h"
#include "moelora/model/layer_input.h"
#include "moelora/model/weights.h"
#include "moelora/nn/embedding.h"
#include "moelora/nn/layer_norm.h"
#include "moelora/nn/linear.h"
#include "moelora/nn/rotary.h"

namespace moelora::model {

/// The checkpoint's tensors; lm_head.weight last, which may be the embedding.
ExpectedTensors expected_tensors(const ChatGlmConfig& config);

class ChatGlmAttentionImpl : public torch::nn::Module {
 public:
  ChatGlmAttentionImpl(const ChatGlmConfig& config, const TensorSource& source, const std::string& prefix);
  /// x [rows, hidden] → [rows, hidden], or only output_rows [n] → [n, hidden].
  at::Tensor forward(const at::Tensor& x, const LayerInput& input);
  std::int64_t heads() const { return heads_; }
  nn::Linear query_key_value{nullptr};
  nn::Linear dense{nullptr};

 private:
  std::int64_t heads_;
  std::int64_t head_dim_;
};
TORCH_MODULE(ChatGlmAttention);

class ChatGlmMlpImpl : public torch::nn::Module {
 public:
  ChatGlmMlpImpl(const ChatGlmConfig& config, const TensorSource& source, const std::string& prefix);
  at::Tensor forward(const at::Tensor& x, const nn::RowContext& context);
  nn::Linear dense_h_to_4h{nullptr};
  nn::Linear dense_4h_to_h{nullptr};
};
TORCH_MODULE(ChatGlmMlp);

class ChatGlmBlockImpl : public torch::nn::Module {
 public:
  ChatGlmBlockImpl(const ChatGlmConfig& config, const TensorSource& source, const std::string& prefix);
  /// As ChatGlmAttention's. One autograd function where the block's weights are frozen (training an adapter), plain
  /// operations otherwise.
  at::Tensor forward(const at::Tensor& x, const LayerInput& input);
  /// By plain operations always: the readable reference that tests compare with.
  at::Tensor forward_reference(const at::Tensor& x, const LayerInput& input);
  nn::LayerNorm input_layernorm{nullptr};
  ChatGlmAttention attention{nullptr};
  nn::LayerNorm post_attention_layernorm{nullptr};
  ChatGlmMlp mlp{nullptr};
};
TORCH_MODULE(ChatGlmBlock);

class ChatGlmTransformerImpl : public torch::nn::Module {
 public:
  ChatGlmTransformerImpl(const ChatGlmConfig& config, const TensorSource& source, const std::string& prefix);
  nn::Embedding word_embeddings{nullptr};
  torch::nn::ModuleList layers;
  nn::LayerNorm final_layernorm{nullptr};
};
TORCH_MODULE(ChatGlmTransformer);

class ChatGlmImpl : public CausalLM {
 public:
  explicit ChatGlmImpl(const ChatGlmConfig& config, const TensorSource& source = random_tensors(0));

  at::Tensor hidden(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                    const ForwardOptions& options = {}) override;
  void visit_outputs(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                     const OutputVisitor& visit) override;
  at::Tensor head_weight() const override;
  at::Tensor logits(const at::Tensor& hidden_rows) override;
  at::Tensor positions(const nn::Segments& segments) const override;
  at::Tensor position_at(std::int64_t bidirectional_rows, std::int64_t index) const override;
  /// A prefix-LM: the rows before the labels, up to the [gMASK], see each other in both directions.
  nn::Segments segments(const std::vector<std::int64_t>& lengths,
                        const std::vector<std::int64_t>& label_begins) const override;
  ModelShape shape() const override { return config_.shape(); }
  std::optional<StepCost> step_cost(const Workload& load, std::int64_t recomputed_blocks) const override;

  const ChatGlmConfig& config() const { return config_; }
  void tie_head();  ///< lm_head.weight becomes the word embedding's tensor (the published checkpoint).
  bool head_is_tied() const;

  ChatGlmTransformer transformer{nullptr};
  nn::Linear lm_head{nullptr};

 private:
  ChatGlmConfig config_;
};
TORCH_MODULE(ChatGlm);

}  // namespace moelora::model
