#include "moelora/model/finite_logits.h"

#include <ATen/ATen.h>

#include <vector>

#include "moelora/io/dtype.h"
#include "moelora/io/finite.h"
#include "moelora/model/generation.h"
#include "moelora/nn/linear.h"

namespace moelora::model {
namespace {

std::int64_t first_row_not_finite(const at::Tensor& rows) {
  return at::isfinite(rows.reshape({rows.size(0), -1}))
      .all(1)
      .logical_not()
      .to(at::kByte)
      .argmax()
      .item<std::int64_t>();
}

bool is_below(const std::string& name, const std::string& module) { return name.starts_with(module + "."); }

/// The weights of one layer, the active adapter's included, that are not finite: one line for each.
std::vector<std::string> damaged_weights(const CausalLM& model, const std::string& layer) {
  std::vector<std::string> damaged;
  const auto look_at = [&](const std::string& name, const at::Tensor& tensor) {
    if (const std::string text = io::describe_not_finite(tensor); !text.empty()) {
      damaged.push_back(name + " (" + text + ")");
    }
  };
  for (const auto& parameter : model.named_parameters()) {
    if (layer.empty() || is_below(parameter.key(), layer)) {
      look_at(parameter.key(), parameter.value());
    }
  }
  for (const auto& module : model.named_modules("", /*include_self=*/false)) {
    const auto* linear = module.value()->as<nn::LinearImpl>();
    if (linear == nullptr || linear->active_delta() == nullptr ||
        !(layer.empty() || module.key() == layer || is_below(module.key(), layer))) {
      continue;
    }
    for (const auto& parameter : linear->active_delta()->named_parameters()) {
      look_at("the adapter's " + parameter.key() + " of " + module.key(), parameter.value());
    }
  }
  return damaged;
}

std::string cause_in(const CausalLM& model, const std::string& layer) {
  const std::vector<std::string> damaged = damaged_weights(model, layer);
  if (damaged.empty()) {
    const std::string dtype = io::dtype_name(model.dtype());
    return "; its weights are finite, so its values leave the range of " + dtype +
           (model.dtype() == at::kFloat ? ", as after a training that diverged; use an earlier checkpoint"
                                        : "; compute in float32 (--dtype float32)");
  }
  constexpr std::size_t kShown = 3;
  std::string text = "; it holds weights that are not finite: ";
  for (std::size_t i = 0; i < damaged.size() && i < kShown; ++i) {
    text += (i == 0 ? "" : ", ") + damaged[i];
  }
  if (damaged.size() > kShown) {
    text += detail::concat(" and ", damaged.size() - kShown, " tensors more");
  }
  return text + ": the file is damaged or its training diverged; use another copy";
}

}  // namespace

std::string first_not_finite_layer(CausalLM& model, const Prompt& sequence, const nn::RowContext& context) {
  at::NoGradGuard no_grad;
  if (context.expert_weights.defined() && !io::all_finite(context.expert_weights)) {
    return "the adapter's expert weights are not finite: its gate or task embedding is damaged or its training "
           "diverged";
  }
  for (std::size_t layer = 0; layer < context.prefix.size(); ++layer) {
    const nn::KeyValuePrefix& prefix = context.prefix[layer];
    if (prefix.defined() && !(io::all_finite(prefix.key) && io::all_finite(prefix.value))) {
      return detail::concat("the adapter's prefix of layer ", layer,
                            " is not finite: it is damaged or its training diverged");
    }
  }
  const TokenIds& ids = sequence.ids;
  const nn::Segments segments = segments_of({sequence});
  const at::Device device = model.device();
  std::string found;
  model.visit_outputs(at::tensor(ids, at::kLong).to(device), model.positions(segments).to(device), context,
                      [&](const std::string& name, const at::Tensor& output) {
                        if (io::all_finite(output)) {
                          return true;
                        }
                        found = "the first layer whose output is not finite is " + (name.empty() ? "the model" : name);
                        if (output.size(0) == sequence.length()) {
                          const std::int64_t row = first_row_not_finite(output);
                          found += detail::concat(" (from token ", row, " on, id ", ids[row], ")");
                        }
                        found += cause_in(model, name);
                        return false;
                      });
  return found.empty() ? "run once more in one piece, every layer is finite: the values are at the edge of their range"
                       : found;
}

void require_finite_logits(CausalLM& model, const at::Tensor& logits,
                           const std::function<SuspectSequence(std::int64_t row)>& suspect) {
  if (io::all_finite(logits)) {
    return;
  }
  const std::int64_t row = first_row_not_finite(logits);
  const SuspectSequence suspected = suspect(row);
  throw io::NotFinite(detail::concat("the logits of ", suspected.what, " are not finite (",
                                     io::describe_not_finite(logits[row]),
                                     "): ", first_not_finite_layer(model, suspected.sequence, suspected.context)));
}

}  // namespace moelora::model
