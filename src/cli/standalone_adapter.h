#pragma once
// Adapters without their base model: for verbs that only read or rewrite adapter files.

#include <filesystem>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/adapter/foreign.h"

namespace moelora::cli {

/// An adapter whose linears have a base without weights: it can be read, saved and exported, not run or merged.
/// `base` keeps that module alive as long as the adapter is used.
struct StandaloneAdapter {
  std::shared_ptr<torch::nn::Module> base;
  Adapter adapter{nullptr};
};

StandaloneAdapter load_standalone_adapter(const std::filesystem::path& folder);
/// Also of a P-Tuning v2 checkpoint. Linears that are named as a known family's get such a model's tree, so that what
/// it refuses is refused here. Error: an adapter of another model that is known by its names.
StandaloneAdapter load_foreign_standalone_adapter(const std::filesystem::path& folder, const ForeignOptions& options);

}  // namespace moelora::cli
