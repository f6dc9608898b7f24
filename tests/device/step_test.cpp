// Losses, gradients, an optimizer step and evaluation on the pretend device, beside the same on the CPU.
#include <gtest/gtest.h>

#include <limits>

#include "device/adapted_model.h"
#include "moelora/train/optimizer.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)
using train::fixture::toy_examples;

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

struct Case {
  const char* name;
  ChangeConfig change = {};
  at::ScalarType dtype = at::kFloat;
  double loss_scale = 1.0;
  double activation_bytes = kNoLimit;
};

std::ostream& operator<<(std::ostream& stream, const Case& one) { return stream << one.name; }

// fp32: sums of a few hundred products in another order. fp16 and bf16: each side rounds its activations (2^-11, 2^-9)
// where its kernels end, a dozen times between the embedding and a gradient.
double tolerance_of(at::ScalarType dtype) { return dtype == at::kFloat ? 1e-5 : dtype == at::kHalf ? 2e-2 : 8e-2; }

class DeviceStep : public ::testing::TestWithParam<Case> {};

TEST_P(DeviceStep, EqualsTheCpus) {
  const Case& one = GetParam();
  const double tolerance = tolerance_of(one.dtype);
  const auto examples = toy_examples(7);
  AdaptedModel host = adapted_model(at::kCPU, one.dtype, one.change),
               device = adapted_model(pretend_device(), one.dtype, one.change);
  const auto run = [&](AdaptedModel& made) {
    return train::accumulate_gradients(*made.model, made.adapter.get(), samples_of(examples), 9, 64, one.loss_scale, 0,
                                       one.activation_bytes);
  };
  const auto expected = run(host), found = run(device);
  EXPECT_NEAR(found.sum(), expected.sum(), tolerance * expected.sum());

  const auto of_host = adapter_tensors(*host.adapter), of_device = adapter_tensors(*device.adapter);
  ASSERT_EQ(of_host.size(), of_device.size());
  Worst worst;
  for (std::size_t i = 0; i < of_host.size(); ++i) {
    ASSERT_EQ(of_host[i].second.grad().defined(), of_device[i].second.grad().defined()) << of_host[i].first;
    if (of_host[i].second.grad().defined()) {
      worst.add(of_device[i].second.grad(), of_host[i].second.grad(), of_host[i].first);
    }
  }
  EXPECT_LE(worst.distance, tolerance) << worst.name;
  RecordProperty("gradients", std::to_string(worst.distance));
  std::vector<at::Tensor> gradients;
  for (const auto& [name, tensor] : of_host) {
    gradients.push_back(tensor.grad().defined() ? tensor.grad().clone() : at::zeros_like(tensor));
  }

  const auto optimize = [&](AdaptedModel& made) {
    train::AdamW optimizer(adapter_tensors(*made.adapter), {});
    const double norm = optimizer.collect_gradients(one.loss_scale, 1.0);
    optimizer.step(1e-3);
    optimizer.clear_gradients();
    return norm;
  };
  const double norm = optimize(host);
  EXPECT_NEAR(optimize(device), norm, tolerance * norm);
  // AdamW's first step is nearly lr · sign(gradient): an entry whose gradient is rounding may go either way.
  for (std::size_t i = 0; i < of_host.size() && one.dtype == at::kFloat; ++i) {
    const at::Tensor sure = gradients[i].abs() > 1e-5;
    const at::Tensor apart = (of_device[i].second.detach().cpu() - of_host[i].second.detach()).abs();
    EXPECT_LE(at::where(sure, apart, at::zeros_like(apart)).max().item<double>(), 1e-5) << of_host[i].first;
    EXPECT_LE(apart.max().item<double>(), 2.1e-3) << of_host[i].first;
  }

  std::vector<const data::Example*> all;
  for (const auto& example : examples) {
    all.push_back(&example);
  }
  const double evaluated = train::evaluate_losses(*host.model, host.adapter.get(), all, 64).sum();
  EXPECT_NEAR(train::evaluate_losses(*device.model, device.adapter.get(), all, 64).sum(), evaluated,
              tolerance * evaluated);
}

INSTANTIATE_TEST_SUITE_P(
    Routings, DeviceStep,
    ::testing::Values(Case{"Task"}, Case{"TaskFp16", {}, at::kHalf, 1024.0}, Case{"TaskBf16", {}, at::kBFloat16},
                      Case{"TaskRecomputed", {}, at::kFloat, 1.0, 1.0}, Case{"TopK", [](auto& c) { c.gate.top_k = 2; }},
                      Case{"PerLinear", [](auto& c) { c.gate.per_linear = true; }},
                      Case{"PerLinearFp16", [](auto& c) { c.gate.per_linear = true; }, at::kHalf, 1024.0},
                      Case{"Uniform", [](auto& c) { c.routing = Routing::uniform; }},
                      Case{"OneExpert", [](auto& c) { c.num_experts = 1; }},
                      Case{"OneExpertFp16", [](auto& c) { c.num_experts = 1; }, at::kHalf, 1024.0}),
    [](const auto& info) { return info.param.name; });

void balanced(MoeLoraConfig& config) {
  config.routing = Routing::token;
  config.router.balance_loss = 0.01;
}

// The balancing loss in fp32 alone: it counts argmaxes, and a row whose two largest weights are equal but for rounding
// counts for one expert here and for another there.
INSTANTIATE_TEST_SUITE_P(
    TokenRouting, DeviceStep,
    ::testing::Values(Case{"Token", [](auto& c) { c.routing = Routing::token; }}, Case{"Balanced", balanced},
                      Case{"TokenFp16", [](auto& c) { c.routing = Routing::token; }, at::kHalf, 1024.0}),
    [](const auto& info) { return info.param.name; });

void one_lora_per_task(MoeLoraConfig& config) {
  config.routing = Routing::single;
  config.num_experts = 3;
  config.rank = 9;
}

void mixtures(MoeLoraConfig& config) {  // a LoRAHub composition: ω are the weights found
  config.routing = Routing::table;
  config.num_experts = 2;
  config.table = {{1, 0}, {0.5, 0.5}, {0, 1}};
}

INSTANTIATE_TEST_SUITE_P(FixedWeights, DeviceStep,
                         ::testing::Values(Case{"Single", one_lora_per_task},
                                           Case{"SingleFp16", one_lora_per_task, at::kHalf, 1024.0},
                                           Case{"Table", mixtures}, Case{"TableFp16", mixtures, at::kHalf, 1024.0}),
                         [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(Prefixes, DeviceStep,
                         ::testing::Values(Case{"Prefix",
                                                [](auto& c) {
                                                  c.prefix = PrefixConfig{3, false, 0.1};
                                                }},
                                           Case{"ProjectedFp16",
                                                [](auto& c) {
                                                  c.prefix = PrefixConfig{3, true, 0.0};
                                                },
                                                at::kHalf, 1024.0},
                                           Case{"Alone",
                                                [](auto& c) {
                                                  c.prefix = PrefixConfig{3, false, 0.0};
                                                  c.targets = {};
                                                }}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moelora
