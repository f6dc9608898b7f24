// Loads a model, saves and loads an adapter, injects another, trains three steps, merges a task: what a user's program
// needs of the package.

#include <torch/optim/adamw.h>

#include <iostream>

#include "moelora/adapter/merge.h"
#include "moelora/model/registry.h"
#include "own_headers.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: consumer MODEL_FOLDER NEW_ADAPTER_FOLDER\n";
    return 2;
  }
  const auto model = moelora::model::load(argv[1]).model;
  const std::string fingerprint = fingerprint_of(*model);
  if (fingerprint != moelora::model::base_fingerprint(*model) ||
      fingerprint != saved_and_loaded(*model, argv[2], fingerprint)) {
    std::cerr << "the adapter's file does not hold the base's fingerprint\n";
    return 1;
  }
  moelora::MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  moelora::Adapter adapter = moelora::inject(*model, config, moelora::TaskNames({"one", "two"}));

  const auto segments = moelora::nn::Segments::from_lengths({6, 5}, {3, 3});
  const at::Tensor ids = at::arange(10, 21, at::kLong);
  const at::Tensor positions = model->positions(segments);
  const moelora::TaskIds tasks = moelora::single_tasks({0, 1});
  const auto loss = [&] {
    const at::Tensor hidden = model->hidden(ids, positions, adapter->context(segments, tasks));
    return moelora::model::token_losses(*model, hidden.slice(0, 0, 10), ids.slice(0, 1, 11)).mean();
  };
  torch::optim::AdamW optimizer(adapter->parameters(), torch::optim::AdamWOptions(1e-2));
  const double before = loss().item<double>();
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    loss().backward();
    optimizer.step();
  }
  const double after = loss().item<double>();
  const moelora::Certificate certificate = moelora::merge_for_task(adapter, "two");
  std::cout << "loss " << before << " -> " << after << ", merged " << certificate.linears << " linears\n";
  return after < before && certificate.linears == 12 ? 0 : 1;
}
