// An adapter in a model of one's own: any torch::nn::Module whose linears are moelora::nn::Linear, here on padded
// [B, T, d] inputs. Two tasks want opposite answers of the same frozen network; one adapter serves both.
//
//   build/bin/own_model
//
// prints
//   adapted linears: 2, base parameters trained: 0
//   step 100 loss 0.0117
//   step 200 loss 0.0017
//   …
//   base unchanged: yes

#include <ATen/ATen.h>
#include <torch/optim/adamw.h>

#include <cstdio>

#include "moelora/adapter/adapter.h"

namespace {

/// y = down(tanh(up(x))), x [B, T, 8] → [B, T, 1].
class NetworkImpl : public torch::nn::Module {
 public:
  NetworkImpl() {
    up = register_module("up", moelora::nn::Linear(8, 32));
    down = register_module("down", moelora::nn::Linear(32, 1));
  }
  at::Tensor forward(const at::Tensor& x, const moelora::nn::RowContext& context) {
    return down->forward(at::tanh(up->forward(x, context)), context);
  }
  moelora::nn::Linear up{nullptr};
  moelora::nn::Linear down{nullptr};
};
TORCH_MODULE(Network);

}  // namespace

int main() {
  at::manual_seed(0);
  Network network;
  const at::Tensor before = network->up->weight.detach().clone();

  moelora::MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  config.alpha = 16;
  config.task_embedding_dim = 8;
  config.targets = {"up", "down"};  // suffixes of names, or full regular expressions
  moelora::Adapter adapter = moelora::inject(*network, config, moelora::TaskNames({"sum", "negative sum"}));

  std::int64_t trained = 0;
  for (const at::Tensor& parameter : network->parameters()) {
    trained += parameter.requires_grad() ? parameter.numel() : 0;
  }
  std::printf("adapted linears: %zu, base parameters trained: %lld\n", adapter->linears().size(),
              static_cast<long long>(trained));

  const std::int64_t batch = 16, length = 4;
  torch::optim::AdamW optimizer(adapter->parameters(), torch::optim::AdamWOptions(1e-2).weight_decay(0.0));
  double loss_value = 0;
  for (int step = 1; step <= 500; ++step) {
    const at::Tensor x = at::randn({batch, length, 8});
    std::vector<std::int64_t> tasks(batch);
    at::Tensor sign = at::ones({batch, 1, 1});
    for (std::int64_t b = 0; b < batch; ++b) {
      tasks[b] = b % 2;
      sign[b][0][0] = tasks[b] == 0 ? 1.0 : -1.0;
    }
    const at::Tensor wanted = sign * at::tanh(x.sum(-1, /*keepdim=*/true));
    // One context for each batch: the gate is evaluated once, every adapted linear uses its result.
    const auto context =
        adapter->context(moelora::nn::Segments::for_batch(batch, length), moelora::single_tasks(tasks));
    const at::Tensor loss = at::mse_loss(network->forward(x, context), wanted);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    loss_value = loss.item<double>();
    if (step % 100 == 0) {
      std::printf("step %3d loss %.4f\n", step, loss_value);
    }
  }
  const bool unchanged = at::equal(before, network->up->weight);
  std::printf("base unchanged: %s\n", unchanged ? "yes" : "no");
  return unchanged && loss_value < 0.2 ? 0 : 1;
}
