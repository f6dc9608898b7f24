#pragma once
// Adapters without their base model: for verbs that only read or rewrite adapter files.

#include <filesystem>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/adapter/foreign.h"

namespace moelora::cli {

/// A linear that an adapter file adapts, with sizes from its tensors.
struct AdaptedShape {
  std::string name;
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
};

/// Of an adapter of ours, or of another program's; none in an adapter that is a prefix alone.
std::vector<AdaptedShape> adapted_shapes(const std::filesystem::path& folder, ForeignFormat format);

/// An adapter whose linears have a base without weights: it can be read, saved and exported, not run or merged.
/// `base` keeps that module alive as long as the adapter is used.
struct AdapterAlone {
  std::shared_ptr<torch::nn::Module> base;
  Adapter adapter{nullptr};
};

AdapterAlone load_adapter_alone(const std::filesystem::path& folder);
AdapterAlone load_foreign_adapter_alone(const std::filesystem::path& folder, const ForeignOptions& options);

}  // namespace moelora::cli
