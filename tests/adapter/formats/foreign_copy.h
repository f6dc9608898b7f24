#pragma once
// Adapters of other programs to change and to read.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapter/tiny_base.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"

namespace moelora::testing {

/// A copy of a fixture with changes, and what reading it says.
class ForeignCopy {
 public:
  using Tensors = std::map<std::string, at::Tensor>;
  explicit ForeignCopy(const std::string& fixture) {
    config_ = io::read_json_file(fixtures() / fixture / "adapter_config.json");
    tensors_ = io::load_safetensors(fixtures() / fixture / "adapter_model.safetensors");
  }
  ForeignCopy& config(const std::function<void(nlohmann::ordered_json&)>& change) {
    change(config_);
    return *this;
  }
  ForeignCopy& tensors(const std::function<void(Tensors&)>& change) {
    change(tensors_);
    return *this;
  }
  Adapter load(torch::nn::Module& base, const ForeignOptions& options = {}) {
    write();
    return load_foreign_adapter(base, folder_.path(), options);
  }
  const std::filesystem::path& write() {
    io::write_json_file(folder_.path() / "adapter_config.json", config_);
    io::save_safetensors(folder_.path() / "adapter_model.safetensors", {tensors_.begin(), tensors_.end()});
    return folder_.path();
  }
  const Tensors& tensors() const { return tensors_; }
  std::string error(const ForeignOptions& options = {}) {
    auto base = tiny_base();
    try {
      load(*base, options);
    } catch (const Error& error) {
      for (const auto& module : base->modules()) {
        if (const auto linear = std::dynamic_pointer_cast<nn::LinearImpl>(module)) {
          EXPECT_EQ(linear->delta("default"), nullptr);
        }
      }
      return error.what();
    }
    return "no error";
  }

 private:
  TemporaryFolder folder_;
  nlohmann::ordered_json config_;
  Tensors tensors_;
};

inline void expect_named(const std::string& text, const std::vector<std::string>& parts) {
  for (const auto& part : parts) {
    EXPECT_NE(text.find(part), text.npos) << "'" << part << "' in: " << text;
  }
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// What `run` writes to stderr, where warnings go.
template <typename Run>
std::string stderr_of(Run&& run) {
  ::testing::internal::CaptureStderr();
  run();
  return ::testing::internal::GetCapturedStderr();
}

}  // namespace moelora::testing
