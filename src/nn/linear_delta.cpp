#include "moelora/nn/linear_delta.h"

#include "moelora/io/error.h"

namespace moelora::nn {

LowRank LinearDelta::low_rank(const at::Tensor&) const {
  throw Error("NotMergeable: the update of '" + name() +
              "' depends on each token, so no single matrix holds it; serve it unmerged");
}

}  // namespace moelora::nn
