#include "moelora/adapter/merge.h"

#include <ATen/ATen.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "adapter/formats/adapter_loading.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/finite.h"
#include "moelora/log/log.h"
#include "nn/kernels/cpu/fold.h"

namespace moelora {

/// What an adapter remembers while it is merged.
struct MergeState {
  MergeOptions::KeepBase keep = MergeOptions::KeepBase::device;
  std::vector<at::Tensor> backups;  ///< By linear; empty unless keep is device or host.
  std::function<at::Tensor(const std::string&)> reread;
};

namespace {

using nn::kernels::FoldExtremes;
using KeepBase = MergeOptions::KeepBase;
using AdaptedLinear = AdapterImpl::AdaptedLinear;
using Mixture = std::vector<std::pair<std::string, double>>;

std::string weight_name(const AdaptedLinear& linear) { return linear.name + ".weight"; }

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) {
    return false;
  }
  // As integers, so that -0 and 0 differ and a NaN equals itself.
  const auto integer = a.element_size() == 2 ? at::kShort : a.element_size() == 4 ? at::kInt : at::kLong;
  return at::equal(a.contiguous().view(integer), b.contiguous().view(integer));
}

/// The weight as the file has it, in the dtype and on the device of the linear.
at::Tensor reread_weight(const MergeState& state, const AdaptedLinear& linear) {
  const auto& weight = linear.base->weight;
  const at::Tensor read = state.reread(weight_name(linear));
  MOELORA_CHECK(read.defined() && read.sizes() == weight.sizes(), "reading ", weight_name(linear),
                " again: expected a tensor of shape ", weight.sizes(), ", found ",
                read.defined() ? detail::concat("shape ", read.sizes()) : "nothing",
                "; pass the model folder that the base was loaded from");
  return read.to(weight.device(), weight.scalar_type());
}

/// The original bytes of linear `i`, on its device.
at::Tensor original_weight(const MergeState& state, const AdaptedLinear& linear, std::size_t i) {
  const auto& weight = linear.base->weight;
  return state.keep == KeepBase::reread ? reread_weight(state, linear)
                                        : state.backups.at(i).to(weight.device(), weight.scalar_type());
}

/// Makes sure that the bytes of linear `i`, unmerged now, can be had again.
void keep_original(MergeState& state, const AdaptedLinear& linear) {
  const auto& weight = linear.base->weight;
  if (state.keep == KeepBase::device) {
    state.backups.push_back(weight.detach().clone());
  } else if (state.keep == KeepBase::host) {
    state.backups.push_back(weight.detach().to(at::kCPU, weight.scalar_type(), /*non_blocking=*/false, /*copy=*/true));
  } else if (state.keep == KeepBase::reread) {
    MOELORA_CHECK(same_bytes(reread_weight(state, linear), weight.detach()), "reading ", weight_name(linear),
                  " again gives other values than the base has, so unmerging could not restore it; expected the model "
                  "folder that the base was loaded from (or keep the base on the device or the host)");
  }
}

void restore_linears(const AdapterImpl& adapter, const MergeState& state, std::size_t count) {
  at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < count; ++i) {
    const auto& linear = adapter.linears()[i];
    linear.base->weight.copy_(original_weight(state, linear, i));
    linear.base->merged_adapter.clear();
  }
}

double largest_magnitude(const at::Tensor& values) {
  const auto [low, high] = at::aminmax(values);
  return std::max(-low.item<double>(), high.item<double>());
}

/// out = round(source + B A) for some rows, on any device; source may be out itself.
FoldExtremes fold_tensors(at::Tensor out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                          bool measure) {
  FoldExtremes extremes;
  if (out.scalar_type() == at::kHalf || out.scalar_type() == at::kBFloat16) {
    const at::Tensor update = at::mm(B, A);
    const at::Tensor sum = source.to(at::kFloat).add_(update);
    out.copy_(sum);
    if (measure) {
      extremes = {largest_magnitude(out.to(at::kFloat).sub_(sum)), largest_magnitude(update)};
    }
    return extremes;
  }
  at::Tensor sum;
  if (measure) {
    const at::Tensor update = at::mm(B.to(at::kDouble), A.to(at::kDouble));
    extremes.update = largest_magnitude(update);
    sum = update.add_(source);
  }
  const at::Tensor left = B.to(out.scalar_type());
  const at::Tensor right = A.to(out.scalar_type());
  if (out.is_same(source) || out.data_ptr() == source.data_ptr()) {
    out.addmm_(left, right);
  } else {
    at::addmm_out(out, source, left, right);
  }
  if (measure) {
    extremes.rounding = largest_magnitude(sum.sub_(out));
  }
  return extremes;
}

/// weight = round(source + B A).
FoldExtremes fold_weight(const at::Tensor& weight, const at::Tensor& source, const nn::LowRank& update, bool measure) {
  const at::Tensor out = weight.detach();
  const at::Tensor A = update.A.to(weight.device());
  const at::Tensor B = update.B.to(weight.device());
  if (nn::kernels::folds_in_one_pass(out, source)) {
    return nn::kernels::fold_in_one_pass(out, source, B, A, measure);
  }
  // In blocks of rows, so that the wide temporaries stay small.
  const std::int64_t rows = out.size(0);
  const std::int64_t step = std::max<std::int64_t>(1, (1 << 24) / std::max<std::int64_t>(1, out.size(1)));
  FoldExtremes extremes;
  for (std::int64_t first = 0; first < rows; first += step) {
    const std::int64_t count = std::min(step, rows - first);
    extremes = larger_of(extremes, fold_tensors(out.narrow(0, first, count), source.narrow(0, first, count),
                                                B.narrow(0, first, count), A, measure));
  }
  return extremes;
}

/// Σ weight_t · ΔW_t of each linear. It is linear in B: A stays, B = Σ weight_t · s · B diag(g_t).
std::vector<nn::LowRank> mixed_updates(const AdapterImpl& adapter, const Mixture& mixture) {
  std::vector<std::int64_t> tasks;
  for (const auto& [task, weight] : mixture) {
    tasks.push_back(adapter.tasks().index(task));
  }
  const at::Tensor omega = adapter.expert_weights(single_tasks(tasks));  // [gates, tasks, N]
  std::vector<nn::LowRank> updates;
  for (const auto& linear : adapter.linears()) {
    nn::LowRank mixed;
    for (std::size_t t = 0; t < mixture.size(); ++t) {
      const auto row = omega.defined() ? omega.select(1, static_cast<std::int64_t>(t)) : at::Tensor();
      const nn::LowRank update = linear.delta->low_rank(row);
      const double weight = mixture[t].second;
      mixed.A = update.A;
      if (t == 0) {
        mixed.B = weight == 1.0 ? update.B : update.B * weight;
      } else {
        mixed.B = mixed.B + update.B * weight;
      }
    }
    if (!io::all_finite(mixed.A) || !io::all_finite(mixed.B)) {
      throw io::NotFinite(detail::concat("the update of ", linear.name, " is not finite, so it can't be merged: its ",
                                         "experts' weights or the mixture's are too large"));
    }
    updates.push_back(std::move(mixed));
  }
  return updates;
}

void check_foldable(const AdapterImpl& adapter, const MergeOptions& options) {
  const auto* state = adapter.merge_state();
  MOELORA_CHECK(options.keep_base != KeepBase::reread || options.reread || (state != nullptr && state->reread),
                "KeepBase::reread needs MergeOptions::reread, a function that reads a weight by its checkpoint name");
  MOELORA_CHECK(state == nullptr || state->keep != KeepBase::none, "adapter '", adapter.adapter_name(),
                "' is merged for good (nothing of the base was kept); load the base again to merge another task");
  for (const auto& linear : adapter.linears()) {
    MOELORA_CHECK(linear.base->shared_with.empty(), "NotMergeable: ", weight_name(linear), " is also ",
                  linear.base->shared_with,
                  ", which a merge would change with it; give the linear a weight of its own, or serve it unmerged");
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

/// Folds every linear in turn. `touched` counts those whose bytes may have changed, for the restore after an error.
void fold_linears(const AdapterImpl& adapter, MergeState& state, bool switching,
                  const std::vector<nn::LowRank>& updates, bool measure, std::size_t& touched,
                  Certificate& certificate) {
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
    const FoldExtremes extremes = fold_weight(linear.base->weight, source, updates[i], measure);
    if (!measure) {
      continue;
    }
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
  MOELORA_CHECK(!adapter.prefix_encoder(), "NotMergeable: adapter '", adapter.adapter_name(), "' has a prefix of ",
                adapter.config().prefix.length,
                " positions: extra keys and values, not a change of weights; serve it unmerged, with the adapter");
}

void require_finite(const AdapterImpl& adapter) {
  std::vector<std::string> damaged;
  for (const auto& [name, tensor] : adapter_tensors(adapter)) {
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

std::vector<std::pair<std::string, double>> parse_mixture(std::string_view text) {
  const auto trim = [](std::string_view part) {
    const auto first = part.find_first_not_of(" \t");
    return first == part.npos ? std::string_view() : part.substr(first, part.find_last_not_of(" \t") - first + 1);
  };
  Mixture mixture;
  std::set<std::string_view> seen;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(',', begin), text.size());
    const auto part = trim(text.substr(begin, end - begin));
    const auto equals = part.rfind('=');
    const auto task = trim(part.substr(0, std::min(equals, part.size())));
    auto number = equals == part.npos ? std::string_view() : trim(part.substr(equals + 1));
    const auto check = [&](bool good, const std::string& problem) {
      MOELORA_CHECK(good, "expected a mixture like \"CMeIE=0.5,MedDG=0.5\", found '", part, "' in \"", text,
                    "\": ", problem);
    };
    check(!task.empty() && equals != part.npos, part.empty() ? "an empty part" : "expected TASK=WEIGHT");
    const std::string shown(number);
    if (number.size() > 1 && number.front() == '+' && number[1] != '-') {
      number.remove_prefix(1);
    }
    double weight = 0.0;
    const auto [stop, failure] = std::from_chars(number.data(), number.data() + number.size(), weight);
    check(failure != std::errc::result_out_of_range, "the weight " + shown + " is out of range");
    check(failure == std::errc() && stop == number.data() + number.size(), "the weight '" + shown + "' is no number");
    check(std::isfinite(weight), "the weight " + shown + " is not finite");
    check(seen.insert(task).second, "task '" + std::string(task) + "' comes twice; give it one weight");
    mixture.emplace_back(task, weight);
    begin = end + 1;
  }
  return mixture;
}

}  // namespace moelora
