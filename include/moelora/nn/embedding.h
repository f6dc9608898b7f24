#pragma once
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

namespace moelora::nn {

/// A table `weight` [rows, d], initialised N(0, 1).
class EmbeddingImpl : public torch::nn::Cloneable<EmbeddingImpl> {
 public:
  EmbeddingImpl(std::int64_t rows, std::int64_t width) : rows_(rows), width_(width) { reset(); }
  explicit EmbeddingImpl(at::Tensor weight);  ///< Around an existing table.
  void reset() override;
  at::Tensor forward(const at::Tensor& ids);  ///< ids [...] int64 → [..., d]

  at::Tensor weight;

 private:
  std::int64_t rows_;
  std::int64_t width_;
};
TORCH_MODULE(Embedding);

}  // namespace moelora::nn
