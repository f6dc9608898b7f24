#include "moelora/adapter/merge.h"

#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "adapter/core/listed.h"
#include "adapter/merge/fold_weight.h"
#include "adapter/merge/kept_base.h"
#include "adapter/merge/mixture.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/finite.h"
#include "moelora/log/log.h"
#include "nn/kernels/cpu/fold.h"

namespace moelora {

namespace {

using nn::kernels::FoldExtremes;
using KeepBase = MergeOptions::KeepBase;
using AdaptedLinear = AdapterImpl::AdaptedLinear;

void check_foldable(const AdapterImpl& adapter, const MergeOptions& options) {
  const auto* state = adapter.merge_state();
  MOELORA_CHECK(options.keep_base != KeepBase::reread || options.reread || (state != nullptr && state->reread),
                "KeepBase::reread needs MergeOptions::reread, a function that reads a weight by its checkpoint name");
  MOELORA_CHECK(state == nullptr || state->keep != KeepBase::none, "adapter '", adapter.adapter_name(),
                "' is merged for good (nothing of the base was kept); load the base again to merge another task");
  for (const auto& linear : adapter.linears()) {
    if (!linear.base->shared_with.empty()) {
      throw NotMergeable(detail::concat(
          "NotMergeable: ", weight_name(linear), " is also ", linear.base->shared_with,
          ", which a merge would change with it; give the linear a weight of its own, or serve it unmerged"));
    }
    MOELORA_CHECK(at::isFloatingType(linear.base->weight.scalar_type()), weight_name(linear), " is ",
                  io::dtype_name(linear.base->weight.scalar_type()),
                  "; expected a floating-point weight to merge into");
    const auto& merged = linear.base->merged_adapter;
    MOELORA_CHECK(merged.empty() || state != nullptr, weight_name(linear), " has adapter '", merged,
                  "' merged into it; unmerge that one (or load the base again) before merging adapter '",
                  adapter.adapter_name(), "'");
    const auto& active = linear.base->active();
    MOELORA_CHECK(active.empty() || active == adapter.adapter_name(), "adapter '", active, "' is active on ",
                  linear.name, "; disable it before merging adapter '", adapter.adapter_name(), "'");
  }
}

at::Tensor probe_logits(const MergeOptions& options, const char* when) {
  const at::Tensor logits = options.probe();
  MOELORA_CHECK(logits.defined() && logits.numel() > 0, "the probe returned no logits");
  if (const std::string problem = io::describe_not_finite(logits); !problem.empty()) {
    throw io::NotFinite(detail::concat("the probe's logits ", when, " the merge are not finite: ", problem));
  }
  return logits.detach().to(at::kCPU, at::kDouble).clone();
}

/// Why a merged weight is not finite: it was not so before, or the sum leaves the range of its type.
[[noreturn]] void throw_not_finite(const MergeState& state, const AdaptedLinear& linear, std::size_t i,
                                   double largest_update) {
  const at::Tensor merged = linear.base->weight.detach();
  const bool known = state.keep != KeepBase::none || state.reread;
  const at::Tensor before = !known                         ? merged
                            : state.keep == KeepBase::none ? reread_weight(state, linear)
                                                           : original_weight(state, linear, i);
  // The update itself is finite, so only the base can bring a NaN.
  const std::string damage = io::describe_not_finite(before);
  if (!damage.empty() && (known || merged.isnan().any().item<bool>())) {
    throw io::NotFinite(detail::concat(weight_name(linear), " of the base is not finite before the merge: ", damage,
                                       "; the base is damaged, use another copy"));
  }
  throw io::NotFinite(detail::concat(
      "merged into ", weight_name(linear), ", the update leaves the range of ", io::dtype_name(merged.scalar_type()),
      " (largest entry of the update: ", largest_update, "); merge into a base of float32 or bfloat16"));
}

/// What the folds did to the numbers. io::NotFinite if a merged weight is not finite.
void certify(const AdapterImpl& adapter, const MergeState& state, const FoldedExtremes& folded,
             Certificate& certificate) {
  const std::vector<FoldExtremes> all = folded.read();
  for (std::size_t i = 0; i < all.size(); ++i) {
    const FoldExtremes& extremes = all[i];
    const auto& linear = adapter.linears()[i];
    if (!std::isfinite(extremes.rounding) || !std::isfinite(extremes.update)) {
      throw_not_finite(state, linear, i, extremes.update);
    }
    if (extremes.rounding > certificate.largest_rounding) {
      certificate.largest_rounding = extremes.rounding;
      certificate.largest_rounding_at = linear.name;
    }
    certificate.largest_update = std::max(certificate.largest_update, extremes.update);
  }
}

/// Folds every linear in turn. `touched` counts those whose bytes may have changed, for the restore after an error.
void fold_linears(const AdapterImpl& adapter, MergeState& state, bool switching,
                  const std::vector<nn::LowRank>& updates, bool measure, std::size_t& touched,
                  Certificate& certificate) {
  FoldedExtremes folded;
  for (std::size_t i = 0; i < updates.size(); ++i) {
    const auto& linear = adapter.linears()[i];
    at::Tensor source = linear.base->weight.detach();
    if (switching) {
      source = original_weight(state, linear, i);  // the previous task's update is overwritten, not undone first
    } else {
      keep_original(state, linear);
    }
    touched = std::max(touched, i + 1);
    linear.base->merged_adapter = adapter.adapter_name();
    fold_weight(linear.base->weight, source, updates[i], measure, folded);
  }
  if (measure) {
    certify(adapter, state, folded, certificate);
  }
}

Certificate fold_mixture(Adapter& adapter, const std::string& what, const Mixture& mixture,
                         const MergeOptions& options) {
  at::NoGradGuard no_grad;
  // What a user can get wrong is found here, before the first byte changes.
  require_mergeable(*adapter);
  require_finite(*adapter);
  check_foldable(*adapter, options);
  const auto updates = mixed_updates(*adapter, mixture);

  if (is_merged(adapter) && (options.probe || adapter->merge_state()->keep != options.keep_base)) {
    unmerge(adapter);
  }
  const bool switching = is_merged(adapter);
  at::Tensor unmerged;
  if (options.probe) {
    adapter->enable();
    unmerged = probe_logits(options, "before");
  }

  auto state = std::make_shared<MergeState>();
  if (switching) {
    *state = *adapter->merge_state();
  }
  state->keep = options.keep_base;
  if (options.reread) {
    state->reread = options.reread;
  }
  Certificate certificate;
  certificate.what = what;
  certificate.linears = static_cast<std::int64_t>(updates.size());
  certificate.dtype = io::dtype_name(adapter->linears().front().base->weight.scalar_type());
  std::size_t touched = switching ? updates.size() : 0;
  try {
    adapter->disable();
    fold_linears(*adapter, *state, switching, updates, options.measure, touched, certificate);
    const bool one_task = mixture.size() == 1 && mixture.front().second == 1.0;
    adapter->set_merge_state(state, what, one_task ? adapter->tasks().index(mixture.front().first) : -1);
    if (options.probe) {
      certificate.largest_logit_difference = largest_magnitude(probe_logits(options, "after").sub_(unmerged));
    }
  } catch (...) {
    if (state->keep == KeepBase::none && touched > 0) {
      adapter->set_merge_state(state);
      log::error("the merge failed and nothing of the base was kept: load the base again");
    } else {
      adapter->set_merge_state(state);  // stays merged if the restore itself should fail; unmerge() tries again then
      restore_linears(*adapter, *state, touched);
      adapter->set_merge_state(nullptr);
      adapter->enable();
    }
    throw;
  }
  return certificate;
}

}  // namespace

nlohmann::ordered_json Certificate::to_json() const {
  const auto measured = [](double value) {
    return value < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(value);
  };
  return {{"what", what},
          {"linears", linears},
          {"dtype", dtype},
          {"largest_rounding", measured(largest_rounding)},
          {"largest_rounding_at", largest_rounding_at},
          {"largest_update", measured(largest_update)},
          {"largest_logit_difference", measured(largest_logit_difference)}};
}

Certificate merge_for_task(Adapter& adapter, std::string_view task, const MergeOptions& options) {
  return fold_mixture(adapter, detail::concat("task ", task), {{std::string(task), 1.0}}, options);
}

Certificate merge_mixture(Adapter& adapter, const Mixture& mixture, const MergeOptions& options) {
  MOELORA_CHECK(!mixture.empty(), "expected a mixture of at least one task, as in \"CMeIE=0.5,MedDG=0.5\"");
  std::string what = "mix ";
  std::set<std::string> seen;
  for (const auto& [task, weight] : mixture) {
    MOELORA_CHECK(std::isfinite(weight), "task '", task, "' has the weight ", weight, "; expected a finite number");
    MOELORA_CHECK(seen.insert(task).second, "task '", task, "' is in the mixture twice; give it one weight");
    what += detail::concat(seen.size() == 1 ? "" : ",", task, "=", weight);
  }
  return fold_mixture(adapter, what, mixture, options);
}

void unmerge(Adapter& adapter) {
  const auto* state = adapter->merge_state();
  MOELORA_CHECK(state != nullptr, "adapter '", adapter->adapter_name(), "' is not merged, so there is nothing to undo");
  MOELORA_CHECK(state->keep != KeepBase::none, "adapter '", adapter->adapter_name(),
                "' was merged with nothing of the base kept; load the base again");
  restore_linears(*adapter, *state, adapter->linears().size());
  adapter->set_merge_state(nullptr);
  adapter->enable();
}

void require_mergeable(const AdapterImpl& adapter) {
  if (adapter.prefix_encoder()) {
    throw NotMergeable(detail::concat(
        "NotMergeable: adapter '", adapter.adapter_name(), "' has a prefix of ", adapter.config().prefix->length,
        " positions: extra keys and values, not a change of weights; serve it unmerged, with the adapter"));
  }
  for (const auto& linear : adapter.linears()) {
    linear.delta->require_mergeable();
  }
}

void require_finite(const AdapterImpl& adapter) {
  const auto tensors = adapter_tensors(adapter);
  std::vector<at::Tensor> values;
  for (const auto& [name, tensor] : tensors) {
    values.push_back(tensor);
  }
  if (io::all_finite(values)) {
    return;
  }
  std::vector<std::string> damaged;
  for (const auto& [name, tensor] : tensors) {
    if (const std::string text = io::describe_not_finite(tensor); !text.empty()) {
      damaged.push_back(name + ": " + text);
    }
  }
  if (!damaged.empty()) {
    throw io::NotFinite("the adapter holds numbers that are not finite:" + listed(damaged, 10) +
                        "\nit is damaged or its training diverged; use an earlier checkpoint or another copy");
  }
}

bool is_merged(const Adapter& adapter) { return adapter->merge_state() != nullptr; }

}  // namespace moelora
