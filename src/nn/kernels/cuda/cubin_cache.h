#pragma once
// Compiled kernels kept on disk between runs. A cache only: whatever is wrong with its folder, kernels are compiled
// anew.

#include <filesystem>
#include <optional>
#include <string>

#include "nn/kernels/cuda/nvrtc.h"

namespace moelora::nn::cuda {

class CubinCache {
 public:
  /// Of $XDG_CACHE_HOME/moelora or ~/.cache/moelora; empty where neither variable is set.
  static std::filesystem::path default_folder();
  /// Of everything that the code depends on: sources, kernel, target, compiler.
  static std::string key_of(const kernels::KernelInfo& kernel, const Target& target, const std::string& compiler);

  /// An empty folder keeps nothing.
  explicit CubinCache(std::filesystem::path folder) : folder_(std::move(folder)) {}

  std::optional<CompiledKernel> find(const std::string& key) const;  ///< without its log
  void keep(const std::string& key, const CompiledKernel& kernel) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace moelora::nn::cuda
