#pragma once
// A family of models that the library does not have, as an embedder would add one: a causal decoder with RMSNorm, one
// axis of rotary positions (half pairs) and fewer key/value heads than query heads.
//
//   a = attention(rms(x))   q, k, v of rms(x); h query heads share h / kv_heads heads of keys and values
//   y = x + o(a)            z = y + down(silu(up(rms(y))))

#include <torch/nn/modules/container/modulelist.h>

#include "moelora/model/causal_lm.h"
#include "moelora/model/weights.h"
#include "moelora/nn/embedding.h"
#include "moelora/nn/linear.h"
#include "moelora/nn/rotary.h"

namespace toy {

struct Config {
  std::int64_t vocab_size = 260;
  std::int64_t hidden_size = 32;
  std::int64_t layers = 2;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t head_dim = 12;  ///< not hidden_size / heads
  std::int64_t max_sequence_length = 256;
};

moelora::model::ExpectedTensors expected_tensors(const Config& config);

class BlockImpl : public torch::nn::Module {
 public:
  BlockImpl(const Config& config, const moelora::model::TensorSource& source, const std::string& prefix);
  /// x [rows, hidden_size] → the same shape, or only output_rows.
  at::Tensor forward(const at::Tensor& x, const moelora::nn::Rotary& rotary, const moelora::nn::RowContext& context,
                     std::int64_t layer, const moelora::model::ForwardOptions& options, bool last);
  moelora::nn::Linear q{nullptr}, k{nullptr}, v{nullptr}, o{nullptr}, up{nullptr}, down{nullptr};
  at::Tensor attention_norm, mlp_norm;  ///< [hidden_size]

 private:
  Config config_;
};
TORCH_MODULE(Block);

class DecoderImpl : public moelora::model::CausalLM {
 public:
  DecoderImpl(const Config& config, const moelora::model::TensorSource& source);
  at::Tensor hidden(const at::Tensor& ids, const at::Tensor& positions, const moelora::nn::RowContext& context,
                    const moelora::model::ForwardOptions& options = {}) override;
  void visit_outputs(const at::Tensor& ids, const at::Tensor& positions, const moelora::nn::RowContext& context,
                     const moelora::model::OutputVisitor& visit) override;
  at::Tensor head_weight() const override { return head->weight; }
  at::Tensor logits(const at::Tensor& hidden_rows) override { return head->forward(hidden_rows); }
  at::Tensor positions(const moelora::nn::Segments& segments) const override;
  at::Tensor position_at(std::int64_t bidirectional_rows, std::int64_t index) const override;
  moelora::model::ModelShape shape() const override;

  moelora::nn::Embedding embed{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  at::Tensor norm;  ///< [hidden_size]
  moelora::nn::Linear head{nullptr};

 private:
  Config config_;
};
TORCH_MODULE(Decoder);

}  // namespace toy
