#include "moelora/nn/embedding.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/randn.h>

namespace moelora::nn {

EmbeddingImpl::EmbeddingImpl(at::Tensor given_weight) : rows_(given_weight.size(0)), width_(given_weight.size(1)) {
  weight = register_parameter("weight", std::move(given_weight));
}

void EmbeddingImpl::reset() { weight = register_parameter("weight", at::randn({rows_, width_})); }

at::Tensor EmbeddingImpl::forward(const at::Tensor& ids) { return at::embedding(weight, ids); }

}  // namespace moelora::nn
