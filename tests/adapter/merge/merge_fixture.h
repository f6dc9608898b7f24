#pragma once
// A base with an adapter to merge, and what its weights were and should become.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapter/tiny_base.h"
#include "moelora/adapter/adapter.h"
#include "moelora/io/error.h"

namespace moelora::testing {

inline MoeLoraConfig merge_config() {
  MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  config.alpha = 16;
  config.gate.task_embedding_dim = 8;
  return config;
}

/// A base with an adapter whose factors are all non-zero.
struct MergeFixture {
  std::shared_ptr<torch::nn::Module> base;
  Adapter adapter{nullptr};
  std::map<std::string, at::Tensor> original;

  explicit MergeFixture(at::ScalarType dtype = at::kFloat, std::int64_t layers = 1, std::int64_t hidden = 16) {
    base = tiny_base(layers, hidden);
    base->to(dtype);
    adapter = inject(*base, merge_config(), TaskNames({"a", "b", "c"}));
    at::NoGradGuard no_grad;
    auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
    for (const auto& linear : adapter->linears()) {
      linear.delta->tensor("A").normal_(0.0, 0.2, generator);
      linear.delta->tensor("B").normal_(0.0, 0.2, generator);
    }
    original = copy_parameters(*base);
  }

  bool base_is_original() const {
    for (const auto& parameter : base->named_parameters()) {
      const auto& now = parameter.value();
      const auto& then = original.at(parameter.key());
      if (now.scalar_type() != then.scalar_type() || std::memcmp(now.data_ptr(), then.data_ptr(), now.nbytes()) != 0) {
        return false;
      }
    }
    return true;
  }
  std::function<at::Tensor(const std::string&)> reread() const {
    return [this](const std::string& name) { return original.at(name); };
  }
  /// W0 + Σ weight ΔW of linear `i`, in fp64 from the update as it is folded.
  at::Tensor exact(std::size_t i, const std::vector<std::pair<std::int64_t, double>>& tasks) const {
    at::NoGradGuard no_grad;
    const auto& linear = adapter->linears()[i];
    at::Tensor sum = original.at(linear.name + ".weight").to(at::kDouble);
    for (const auto& [task, weight] : tasks) {
      const auto omega = adapter->expert_weights(single_tasks({task})).select(1, 0);
      const auto update = linear.delta->low_rank(omega).update();
      sum = sum + weight * at::mm(update.B.to(at::kDouble), update.A.to(at::kDouble));
    }
    return sum;
  }
};

/// The text of the Error that `action` ends with; "no error".
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace moelora::testing
