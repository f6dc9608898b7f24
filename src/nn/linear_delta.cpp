#include "moelora/nn/linear_delta.h"

#include "moelora/io/error.h"

namespace moelora::nn {

LowRank LinearDelta::low_rank(const at::Tensor&) const {
  throw Error("NotMergeable: the update of '" + name() +
              "' depends on each token, so no single matrix holds it; serve it unmerged");
}

at::Tensor LinearDelta::begin_forward(const at::Tensor&, const at::Tensor&, const RowContext&, at::Tensor&) const {
  TORCH_INTERNAL_ASSERT(false, name(), " has no manual backward");
}

void LinearDelta::finish_backward(const at::Tensor&, const RowSource&, const at::Tensor&, const RowContext&,
                                  at::Tensor&, DeltaGradients&) const {
  TORCH_INTERNAL_ASSERT(false, name(), " has no manual backward");
}

}  // namespace moelora::nn
