#pragma once
// A torch module tree out of nn::Linear with the names of a ChatGLM, so that adapters meet the names that they meet in
// checkpoints. It has no forward of its own.

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>

#include "moelora/io/safetensors.h"
#include "moelora/nn/linear.h"
#include "support/shared.h"

namespace moelora::testing {

/// The four linears of each block, `hidden` wide, inner width 4 · hidden.
inline std::shared_ptr<torch::nn::Module> tiny_base(std::int64_t layers = 3, std::int64_t hidden = 64) {
  const auto child = [](torch::nn::Module& parent, const std::string& name) {
    return parent.register_module(name, std::make_shared<torch::nn::Module>());
  };
  auto base = std::make_shared<torch::nn::Module>();
  const auto blocks = child(*child(*base, "transformer"), "layers");
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const auto block = child(*blocks, std::to_string(layer));
    const auto attention = child(*block, "attention");
    attention->register_module("query_key_value", nn::Linear(hidden, 3 * hidden));
    attention->register_module("dense", nn::Linear(hidden, hidden));
    const auto mlp = child(*block, "mlp");
    mlp->register_module("dense_h_to_4h", nn::Linear(hidden, 4 * hidden));
    mlp->register_module("dense_4h_to_h", nn::Linear(4 * hidden, hidden));
  }
  return base;
}

/// tiny_base with the weights of the fixture chatglm-tiny.
inline std::shared_ptr<torch::nn::Module> tiny_chatglm_base() {
  auto base = tiny_base();
  const auto weights = io::load_safetensors(fixtures() / "chatglm-tiny" / "model.safetensors");
  for (auto& parameter : base->named_parameters()) {
    parameter.value().set_data(weights.at(parameter.key()));
  }
  return base;
}

/// Copies of all parameters by name, to compare bytes with later.
inline std::map<std::string, at::Tensor> copy_parameters(const torch::nn::Module& module) {
  std::map<std::string, at::Tensor> copies;
  for (const auto& parameter : module.named_parameters()) {
    copies.emplace(parameter.key(), parameter.value().detach().clone());
  }
  return copies;
}

}  // namespace moelora::testing
