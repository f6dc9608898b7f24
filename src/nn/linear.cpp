#include "moelora/nn/linear.h"

#include <ATen/ops/empty.h>
#include <torch/nn/init.h>

#include <cmath>

#include "moelora/io/error.h"

namespace moelora::nn {

LinearImpl::LinearImpl(std::int64_t in_features, std::int64_t out_features, bool with_bias)
    : in_features_(in_features), out_features_(out_features), with_bias_(with_bias) {
  reset();
}

LinearImpl::LinearImpl(at::Tensor given_weight, at::Tensor given_bias)
    : in_features_(given_weight.size(1)), out_features_(given_weight.size(0)), with_bias_(given_bias.defined()) {
  weight = register_parameter("weight", std::move(given_weight));
  bias = register_parameter("bias", std::move(given_bias), /*requires_grad=*/with_bias_);
}

void LinearImpl::reset() {
  // Also runs at the end of clone(): the copy is a plain base without deltas.
  deltas_.clear();
  active_name_.clear();
  active_ = nullptr;
  weight = register_parameter("weight", at::empty({out_features_, in_features_}));
  torch::nn::init::kaiming_uniform_(weight, std::sqrt(5.0));
  bias = at::Tensor();
  if (with_bias_) {
    bias = register_parameter("bias", at::empty({out_features_}));
    const double bound = 1.0 / std::sqrt(static_cast<double>(in_features_));
    torch::nn::init::uniform_(bias, -bound, bound);
  } else {
    register_parameter("bias", {}, /*requires_grad=*/false);
  }
}

void LinearImpl::pretty_print(std::ostream& stream) const {
  stream << "moelora::nn::Linear(in_features=" << in_features_ << ", out_features=" << out_features_
         << ", bias=" << with_bias_;
  if (active_ != nullptr) {
    stream << ", delta=" << active_name_;
  }
  stream << ")";
}

at::Tensor LinearImpl::forward(const at::Tensor& x) {
  MOELORA_CHECK(active_ == nullptr, "a linear with the active adapter '", active_name_,
                "' was run without a RowContext, which would leave the adapter out; pass the context of "
                "Adapter::context(), or call disable() on the adapter first");
  return FrozenWeight(weight).infer(x, bias);
}

at::Tensor LinearImpl::forward(const at::Tensor& x, const RowContext& context) {
  if (active_ == nullptr) {
    return forward(x);
  }
  const bool flat = x.dim() == 2;
  const at::Tensor rows = flat ? x : x.reshape({-1, in_features_});
  MOELORA_CHECK(rows.size(0) == context.rows(), "the input has ", rows.size(0), " rows, but the RowContext describes ",
                context.rows(), "; make the context for this batch (Segments::for_batch(B, T) for a padded input)");
  at::Tensor y = active_->forward(rows, FrozenWeight(weight), bias, context);
  if (flat) {
    return y;
  }
  auto shape = x.sizes().vec();
  shape.back() = out_features_;
  return y.view(shape);
}

void LinearImpl::attach(const std::string& adapter, std::shared_ptr<LinearDelta> delta) {
  MOELORA_CHECK(!adapter.empty(), "an adapter needs a name");
  MOELORA_CHECK(refusal_.empty(), "this linear takes no adapter: ", refusal_);
  MOELORA_CHECK(this->delta(adapter) == nullptr, "an adapter named '", adapter,
                "' is attached already; eject it first or choose another name");
  deltas_.emplace_back(adapter, std::move(delta));
}

void LinearImpl::detach(const std::string& adapter) {
  if (active_name_ == adapter) {
    activate("");
  }
  std::erase_if(deltas_, [&](const auto& entry) { return entry.first == adapter; });
}

void LinearImpl::activate(const std::string& adapter) {
  LinearDelta* found = adapter.empty() ? nullptr : delta(adapter);
  MOELORA_CHECK(adapter.empty() || found != nullptr, "no adapter named '", adapter, "' is attached to this linear");
  active_name_ = adapter;
  active_ = found;
}

LinearDelta* LinearImpl::delta(const std::string& adapter) const {
  for (const auto& [name, delta] : deltas_) {
    if (name == adapter) {
      return delta.get();
    }
  }
  return nullptr;
}

}  // namespace moelora::nn
