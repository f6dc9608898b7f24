#include "adapter/core/low_rank_pair.h"

#include "moelora/io/error.h"

namespace moelora {

std::optional<LinearSize> size_of_low_rank_pair(const std::map<std::string, std::vector<std::int64_t>>& shapes) {
  const auto a = shapes.find("A");
  const auto b = shapes.find("B");
  if (a == shapes.end() || b == shapes.end() || a->second.size() != 2 || b->second.size() != 2) {
    return std::nullopt;
  }
  return LinearSize{a->second[1], b->second[0]};
}

at::Tensor weights_of_gate(const nn::RowContext& context, std::int64_t gate, std::int64_t experts) {
  const at::Tensor& all = context.expert_weights;
  MOELORA_CHECK(all.defined(), "the RowContext has no expert weights, but the active adapter has ", experts,
                " experts; make it with Adapter::context()");
  MOELORA_CHECK(all.size(0) > gate && all.size(2) == experts && all.size(1) == context.segments.count(),
                "the RowContext's expert weights have shape ", all.sizes(), ", expected [> ", gate, ", ",
                context.segments.count(), ", ", experts, "]; it was made for another adapter or batch");
  return all.select(0, gate);
}

}  // namespace moelora
