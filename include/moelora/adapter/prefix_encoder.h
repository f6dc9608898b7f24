#pragma once
// P-Tuning v2 (arXiv 2110.07602): P trained positions in front of every layer's keys and values, seen by all rows,
// never masked and not rotated. With L layers and H = heads · head_dim,
//
//   without projection   values = E                                   E [P, 2·L·H]
//   with projection      values = tanh(E U^T + b) V^T + c             E [P, H], U [H, H], V [2·L·H, H]
//
// seen as [P, 2·L, heads, head_dim]: entries 2l and 2l+1 are the key and the value of layer l. Parameters and values
// are fp32; attention takes them in the model's dtype.

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <vector>

#include "moelora/adapter/config.h"
#include "moelora/nn/prefix_host.h"
#include "moelora/nn/row_context.h"

namespace moelora {

class PrefixEncoderImpl : public torch::nn::Module {
 public:
  PrefixEncoderImpl(const PrefixConfig& config, const nn::PrefixShape& shape);
  /// E ~ N(0, 1), the linears as LibTorch's: weights and biases U(±1/sqrt(H)).
  void reset_parameters(at::Generator generator);
  void pretty_print(std::ostream& stream) const override;

  /// One prefix for each layer, [P, heads, head_dim]. Differentiable. With dropout in the configuration and an active
  /// key, one for each sample, [S, P, heads, head_dim]: its mask is a function of the key's seed and the sample's draw
  /// alone, so packing changes nothing.
  std::vector<nn::KeyValuePrefix> forward(const nn::DropoutKey& dropout = {}) const;

  at::Tensor embedding;      ///< E [P, 2·L·H], or [P, H] with projection
  at::Tensor hidden_weight;  ///< U [H, H]; this and the following undefined without projection
  at::Tensor hidden_bias;    ///< b [H]
  at::Tensor output_weight;  ///< V [2·L·H, H]
  at::Tensor output_bias;    ///< c [2·L·H]

 private:
  double dropout_;
  nn::PrefixShape shape_;
};
TORCH_MODULE(PrefixEncoder);

}  // namespace moelora
