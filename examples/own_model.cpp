// An adapter in a model of one's own: any torch::nn::Module whose linears are moelora::nn::Linear, here on padded
// [B, T, d] inputs with a new head on top. Two tasks want opposite answers of the same frozen network; one adapter
// serves both, and the head, which starts from random values, is trained and saved with it.
//
//   build/bin/own_model [FOLDER]      default: out/own_model; the adapter is written there
//
// prints
//   moelora::Adapter(name=default, routing=task, rank=8, experts=4, … trainable parameters=825)
//   step 100 loss 0.0426
//   step 200 loss 0.0311
//   …
//   base unchanged: yes
//   loaded into a network with another head: the same answers

#include <ATen/ATen.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adamw.h>

#include <cstdio>
#include <exception>
#include <iostream>

#include "moelora/adapter/adapter.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/fingerprint.h"

namespace {

/// x [B, T, 8] → hidden states [B, T, 8] → their mean over T, [B, 8] → one score for each sequence, [B, 1].
class NetworkImpl : public torch::nn::Module {
 public:
  NetworkImpl() {
    up = register_module("up", moelora::nn::Linear(8, 32));
    down = register_module("down", moelora::nn::Linear(32, 8));
    pool = register_module("pool", moelora::nn::Linear(8, 8));
    head = register_module("head", torch::nn::Linear(8, 1));
  }
  at::Tensor forward(const at::Tensor& x, const moelora::nn::RowContext& context) {
    const at::Tensor hidden = down->forward(at::tanh(up->forward(x, context)), context);
    // From here on there is one row for each sequence instead of T: the pooled context.
    const at::Tensor pooled = pool->forward(hidden.mean(1), context.pooled());
    return head->forward(at::tanh(pooled));
  }
  moelora::nn::Linear up{nullptr}, down{nullptr}, pool{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Network);

/// The network as a program finds it: what it knows already, and a head of random values.
Network pretrained(std::uint64_t head_seed) {
  at::manual_seed(0);
  Network network;
  at::manual_seed(head_seed);
  network->head->reset_parameters();
  return network;
}

int run(const std::string& folder) {
  Network network = pretrained(1);
  const at::Tensor before = network->up->weight.detach().clone();

  moelora::MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  config.alpha = 16;
  config.dropout = 0.05;
  config.gate.task_embedding_dim = 8;
  config.targets = {"up", "down", "pool"};  // suffixes of names, or full regular expressions
  config.modules_to_save = {"head"};        // trained whole, saved with the adapter
  // What the adapter belongs to: the network without the head, which is the adapter's own.
  const std::string base = moelora::fingerprint(*network, config.modules_to_save);
  moelora::Adapter adapter = moelora::inject(*network, config, moelora::TaskNames({"sum", "negative sum"}));
  adapter->pretty_print(std::cout);  // `std::cout << *adapter` also prints its parts
  std::cout << std::endl;

  const std::int64_t batch = 16, length = 4;
  const std::uint64_t seed = 1;
  std::vector<std::int64_t> tasks(batch);
  at::Tensor sign = at::ones({batch, 1});
  for (std::int64_t b = 0; b < batch; ++b) {
    tasks[b] = b % 2;
    sign[b][0] = tasks[b] == 0 ? 1.0 : -1.0;
  }
  const auto segments = moelora::nn::Segments::for_batch(batch, length);
  torch::optim::AdamW optimizer(adapter->parameters(), torch::optim::AdamWOptions(1e-2).weight_decay(0.0));
  adapter->train();
  double loss_value = 0;
  for (int step = 0; step < 500; ++step) {
    const at::Tensor x = at::randn({batch, length, 8});
    const at::Tensor wanted = sign * at::tanh(x.mean(1).sum(-1, /*keepdim=*/true));
    // One context for each batch: the gate is evaluated once, every adapted linear uses its result. Dropout needs the
    // step's key; without one nothing is dropped.
    const auto key = moelora::nn::DropoutKey::for_step(seed, step, batch);
    const auto context = adapter->context(segments, moelora::single_tasks(tasks), key);
    const at::Tensor loss = at::mse_loss(network->forward(x, context), wanted);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    loss_value = loss.item<double>();
    if ((step + 1) % 100 == 0) {
      std::printf("step %3d loss %.4f\n", step + 1, loss_value);
    }
  }
  adapter->eval();  // from here on no dropout
  const bool unchanged = at::equal(before, network->up->weight);
  std::printf("base unchanged: %s\n", unchanged ? "yes" : "no");

  moelora::save_adapter(*adapter, folder, base);
  Network served = pretrained(2);
  moelora::Adapter loaded =
      moelora::load_adapter(*served, folder, moelora::fingerprint(*served, config.modules_to_save));
  loaded->eval();
  at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({batch, length, 8});
  const at::Tensor answers = network->forward(x, adapter->context(segments, moelora::single_tasks(tasks)));
  const at::Tensor again = served->forward(x, loaded->context(segments, moelora::single_tasks(tasks)));
  const bool same = at::equal(answers, again);
  std::printf("loaded into a network with another head: %s\n", same ? "the same answers" : "OTHER ANSWERS");
  return unchanged && same && loss_value < 0.2 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? argv[1] : "out/own_model");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "own_model: error: %s\n", error.what());
    return 2;
  }
}
