#pragma once
// What deltas that are made of A [r, d_in] and B [d_out, r] have in common.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "moelora/adapter/delta_kind.h"
#include "moelora/nn/row_context.h"

namespace moelora {

/// The linear that A and B of these shapes belong to (DeltaKind::size); nothing if one is missing or no matrix.
std::optional<LinearSize> size_of_low_rank_pair(const std::map<std::string, std::vector<std::int64_t>>& shapes);

/// ω of each segment by gate number `gate`, [S, experts]. Error if the context has none, or those of another adapter.
at::Tensor weights_of_gate(const nn::RowContext& context, std::int64_t gate, std::int64_t experts);

}  // namespace moelora
