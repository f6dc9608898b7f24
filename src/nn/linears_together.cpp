#include "moelora/nn/linears_together.h"

#include <algorithm>

#include "moelora/nn/few_rows.h"

namespace moelora::nn {
namespace {

bool multiplies_few_rows(const LinearImpl& linear, const at::Tensor& x) {
  return linear.active_delta() == nullptr && x.is_cpu() && linear.weight.scalar_type() == x.scalar_type() &&
         supports_few_rows(x, linear.weight, linear.bias);
}

}  // namespace

std::vector<at::Tensor> forward_together(const std::vector<LinearImpl*>& linears, const at::Tensor& x,
                                         const RowContext& context) {
  const bool together = std::all_of(linears.begin(), linears.end(),
                                    [&](const LinearImpl* linear) { return multiplies_few_rows(*linear, x); });
  std::vector<at::Tensor> outputs;
  if (!together) {
    for (LinearImpl* linear : linears) {
      outputs.push_back(linear->forward(x, context));
    }
    return outputs;
  }
  std::vector<WeightAndBias> weights;
  for (const LinearImpl* linear : linears) {
    linear->require_context_of_active(context);
    weights.push_back({linear->weight, linear->bias});
  }
  return few_rows_products(x, weights);
}

}  // namespace moelora::nn
