#include "adapter/formats/task_lora.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "moelora/adapter/foreign.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"
#include "moelora/io/finite.h"

namespace moelora {
namespace {

/// An alpha with alpha / rank == scale. Times a power of two it is the scale's own digits; at other ranks it may not
/// exist.
double alpha_for(double scale, std::int64_t rank) {
  const double alpha = scale * static_cast<double>(rank);
  MOELORA_CHECK(alpha / static_cast<double>(rank) == scale, "no lora_alpha gives the scale ", scale, " at rank ", rank,
                " exactly; pad to a power of two");
  return alpha;
}

}  // namespace

std::int64_t engine_rank(std::int64_t rank, const std::vector<std::int64_t>& ranks) {
  std::int64_t smallest = 0;
  std::string text;
  for (const std::int64_t candidate : ranks) {
    text += (text.empty() ? "" : ", ") + std::to_string(candidate);
    if (candidate >= rank && (smallest == 0 || candidate < smallest)) {
      smallest = candidate;
    }
  }
  MOELORA_CHECK(smallest > 0, "the adapter's rank is ", rank, ", more than the largest of the ranks to pad to (", text,
                "); pad to a larger one, train with a smaller rank, or merge the task");
  return smallest;
}

at::Tensor exported(const at::Tensor& tensor) { return tensor.detach().to(at::kCPU, at::kFloat).contiguous(); }

void require_finite_export(const io::NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (const std::string problem = io::describe_not_finite(tensor); !problem.empty()) {
      throw io::NotFinite(name + " would not be finite in the exported file: " + problem);
    }
  }
}

void require_exportable(const AdapterImpl& adapter) {
  require_mergeable(adapter);
  MOELORA_CHECK(!adapter.saved_modules(), "adapter '", adapter.adapter_name(), "' holds trained modules of the base ",
                "(modules_to_save: ", adapter.config().modules_to_save.front(),
                adapter.config().modules_to_save.size() > 1 ? ", …" : "",
                "), which an export does not write; serve it as it is, or merge it");
  require_finite(adapter);
}

TaskLora task_lora(const AdapterImpl& adapter, std::string_view task, std::int64_t padded_rank) {
  at::NoGradGuard no_grad;
  require_exportable(adapter);
  const auto& config = adapter.config();
  const std::int64_t index = adapter.tasks().index(task);
  TaskLora lora;
  lora.rank = padded_rank == 0 ? config.rank : engine_rank(config.rank, {padded_rank});
  lora.alpha = lora.rank == config.rank ? config.alpha : alpha_for(config.scaling(), lora.rank);
  const at::Tensor omega = adapter.expert_weights(single_tasks({index})).select(1, 0);  // [gates, N]
  const std::int64_t zeros = lora.rank - config.rank;
  for (const auto& linear : adapter.linears()) {
    const nn::LowRankForm update = linear.delta->low_rank(omega);
    MOELORA_CHECK(update.A.size(0) == config.rank && update.scale == config.scaling(), linear.name,
                  ": expected an update of the configuration's rank ", config.rank, " and scale ", config.scaling(),
                  ", as a LoRA file has it for all linears, found rank ", update.A.size(0), " and scale ", update.scale,
                  "; merge the adapter instead");
    lora.linears.push_back({linear.name, exported(at::constant_pad_nd(exported(update.A), {0, 0, 0, zeros})),
                            exported(at::constant_pad_nd(exported(update.weighted_B()), {0, zeros}))});
  }
  return lora;
}

}  // namespace moelora
