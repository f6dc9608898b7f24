#pragma once
// A small model of a user's own: two linears that can be adapted, and a head on pooled hidden states.

#include <ATen/ATen.h>
#include <torch/nn/modules/linear.h>

#include <functional>
#include <string>

#include "moelora/adapter/adapter.h"
#include "moelora/io/error.h"

namespace moelora::testing {

/// x [B, T, 6] → hidden [B, T, 6] → the mean over T → 3 classes.
class UserModelImpl : public torch::nn::Module {
 public:
  UserModelImpl() {
    up = register_module("up", nn::Linear(6, 10));
    down = register_module("down", nn::Linear(10, 6));
    classifier = register_module("classifier", nn::Linear(6, 3));
    head = register_module("head", torch::nn::Linear(6, 3));
  }
  at::Tensor hidden(const at::Tensor& x, const nn::RowContext& context) {
    return down->forward(at::tanh(up->forward(x, context)), context);
  }
  at::Tensor forward(const at::Tensor& x, const nn::RowContext& context) {
    const at::Tensor pooled = hidden(x, context).view({context.segments.count(), -1, 6}).mean(1);
    return head->forward(pooled) + classifier->forward(pooled, context.pooled());
  }
  nn::Linear up{nullptr}, down{nullptr}, classifier{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(UserModel);

inline MoeLoraConfig user_config(std::vector<std::string> targets = {"up", "down"}) {
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  config.gate.task_embedding_dim = 8;
  config.targets = std::move(targets);
  return config;
}

inline TaskNames user_tasks() { return TaskNames({"triage", "coding", "dialogue"}); }

/// B = 0 at the start hides everything.
inline void fill_updates(Adapter& adapter) {
  at::NoGradGuard guard;
  for (const auto& linear : adapter->linears()) {
    linear.delta->tensor("B").normal_();
  }
}

/// The text of the Error that `action` ends with; "no error".
inline std::string error_text(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace moelora::testing
