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
  active_id_ = 0;
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
  require_context_of_active(context);
  if (active_ == nullptr) {
    return forward(x);
  }
  const bool flat = x.dim() == 2;
  const at::Tensor rows = flat ? x : x.reshape({-1, in_features_});
  MOELORA_CHECK(rows.size(0) == context.rows(), "the input has ", rows.size(0), " rows, but the RowContext describes ",
                context.rows(), "; make the context for this batch (Segments::for_batch(B, T) for a padded input, ",
                "context.pooled() for one row of each sequence)");
  if (!flat) {
    check_shape(x, context);
  }
  at::Tensor y = active_->forward(rows, FrozenWeight(weight), bias, context);
  if (flat) {
    return y;
  }
  auto shape = x.sizes().vec();
  shape.back() = out_features_;
  return y.view(shape);
}

void LinearImpl::check_other_context(const ContextOrigin& origin) const {
  const AdapterIdentity& made_by = *origin.adapter;
  if (active_ != nullptr) {
    if (active_->adapter != nullptr) {
      throw Error(detail::concat("the RowContext was made by adapter '", made_by.name, "', but adapter '", active_name_,
                                 "' is active on this linear",
                                 active_name_ == made_by.name ? " (another one of that name)" : "",
                                 "; one's expert weights mean nothing to the other's matrices: make the context with '",
                                 active_name_, "', or enable() '", made_by.name, "'"));
    }
    return;
  }
  MOELORA_CHECK(merged_adapter == made_by.name && !made_by.merged.empty(), "the RowContext was made by adapter '",
                made_by.name, "', but adapter '", merged_adapter, "' is merged into this linear",
                merged_adapter == made_by.name ? " (another one of that name)" : "",
                "; unmerge it first, or run the merged model as it is with RowContext::plain()");
  origin.require_merged_alike();
}

// B sequences of T rows have as many rows as T of B: the leading axis tells them apart.
void LinearImpl::check_shape(const at::Tensor& x, const RowContext& context) const {
  const bool whole = context.rows() == context.segments.rows();
  MOELORA_CHECK(!whole || x.dim() < 3 || x.size(0) == 1 || x.size(0) == context.segments.count(),
                "the input has shape ", x.sizes(), ", but the RowContext describes ", context.segments.count(),
                " sequences; expected [", context.segments.count(), ", …, ", in_features_,
                "]: make the context for this batch (Segments::for_batch(B, T)), or flatten the input to [rows, ",
                in_features_, "] in the order of its segments");
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
  active_id_ = found != nullptr && found->adapter != nullptr ? found->adapter->id : 0;
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
