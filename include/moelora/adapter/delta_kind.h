#pragma once
// The kinds of deltas that an adapter can put on a linear. Injection, files, merging, export, counting and training
// know a delta as nn::LinearDelta only, so another kind is: a class that derives from it, its settings in
// MoeLoraConfig, and one DeltaKind (the library's own stand in src/adapter/core/delta_kind.cpp).

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moelora/adapter/config.h"
#include "moelora/nn/linear_delta.h"

namespace moelora {

/// Sizes of a linear: weight [out_features, in_features].
struct LinearSize {
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
};

/// A tensor of a delta (nn::LinearDelta::tensors) before it is made.
struct DeltaTensor {
  std::string name;  ///< Without dots.
  std::vector<std::int64_t> shape;
};

struct DeltaKind {
  std::string name;  ///< MoeLoraConfig::delta
  /// The tensors that `make` will give a delta on such a linear. Nothing is made; memory and files are checked by it.
  std::function<std::vector<DeltaTensor>(const MoeLoraConfig& config, const LinearSize& linear)> tensors;
  /// The delta of one linear. `gate`: row of RowContext::expert_weights that the linear uses. `key`: which linear it
  /// is, for dropout masks.
  std::function<std::shared_ptr<nn::LinearDelta>(const MoeLoraConfig& config, const LinearSize& linear,
                                                 std::int64_t gate, std::uint64_t key)>
      make;
  /// The reverse of `tensors`, for adapters that are read without their base: the linear that stored tensors of these
  /// shapes, by name, belong to. Nothing if they don't say.
  std::function<std::optional<LinearSize>(const std::map<std::string, std::vector<std::int64_t>>& shapes)> size;
  /// Whether each expert is rank / num_experts of the update, so that num_experts has to divide rank.
  bool splits_rank = true;
  /// What is wrong with a configuration for this kind, as "key: …"; empty or left out: nothing.
  std::function<std::string(const MoeLoraConfig& config)> problem = {};
};

/// Adds a kind of a program's own. Error: the name is taken or empty, a function is missing.
void register_delta_kind(DeltaKind kind);
/// Error naming the kinds that there are.
const DeltaKind& delta_kind(const std::string& name);
std::vector<std::string> delta_kind_names();

}  // namespace moelora
