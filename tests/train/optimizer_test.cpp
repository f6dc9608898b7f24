#include "moelora/train/optimizer.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/optim/adamw.h>

#include <cmath>

#include "io/raises.h"
#include "moelora/io/error.h"
#include "moelora/train/loss_scaler.h"
#include "moelora/train/schedule.h"

namespace moelora::train {
namespace {

using io::raises;

std::map<std::string, at::Tensor> as_map(const io::NamedTensors& tensors) {
  std::map<std::string, at::Tensor> map;
  for (const auto& [name, tensor] : tensors) {
    map[name] = tensor.clone();
  }
  return map;
}

TEST(AdamW, AgreesWithLibTorchs) {
  AdamWOptions options;
  options.weight_decay = 0.05;
  options.beta2 = 0.99;
  io::NamedTensors ours;
  std::vector<at::Tensor> theirs;
  for (int i = 0; i < 3; ++i) {
    const at::Tensor start = at::randn({37, 5 + i});
    ours.emplace_back("p" + std::to_string(i), start.clone().requires_grad_());
    theirs.push_back(start.clone().requires_grad_());
  }
  AdamW optimizer(ours, options);
  torch::optim::AdamW reference(theirs,
                                torch::optim::AdamWOptions(1e-3).betas({0.9, 0.99}).eps(1e-8).weight_decay(0.05));
  for (int step = 0; step < 20; ++step) {
    for (std::size_t i = 0; i < 3; ++i) {
      const at::Tensor gradient = i == 2 && step % 3 == 1 ? at::Tensor() : at::randn(theirs[i].sizes());
      ours[i].second.mutable_grad() = gradient.defined() ? gradient.clone() : gradient;
      theirs[i].mutable_grad() = gradient;
    }
    optimizer.collect_gradients(1.0, 0.0);
    optimizer.step(1e-3);
    reference.step();
  }
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(at::allclose(ours[i].second, theirs[i], 1e-6, 1e-6)) << (ours[i].second - theirs[i]).abs().max();
  }
}

TEST(AdamW, RatiosOfLearningRatesAgreeWithLibTorchsParameterGroups) {
  const std::vector<double> ratios{1.0, 10.0, 0.0};
  AdamWOptions options;
  options.weight_decay = 0.05;
  io::NamedTensors ours;
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (std::size_t i = 0; i < ratios.size(); ++i) {
    const at::Tensor start = at::randn({37, 5});
    ours.emplace_back("p" + std::to_string(i), start.clone().requires_grad_());
    groups.emplace_back(
        std::vector<at::Tensor>{start.clone().requires_grad_()},
        std::make_unique<torch::optim::AdamWOptions>(torch::optim::AdamWOptions(1e-3 * ratios[i]).weight_decay(0.05)));
  }
  const at::Tensor untouched = ours[2].second.detach().clone();
  AdamW optimizer(ours, options, ratios);
  torch::optim::AdamW reference(groups, torch::optim::AdamWOptions(1e-3));
  for (int step = 0; step < 20; ++step) {
    for (std::size_t i = 0; i < ratios.size(); ++i) {
      const at::Tensor gradient = at::randn({37, 5});
      ours[i].second.mutable_grad() = gradient.clone();
      groups[i].params().front().mutable_grad() = gradient;
    }
    optimizer.collect_gradients(1.0, 0.0);
    optimizer.step(1e-3);
    reference.step();
  }
  for (std::size_t i = 0; i < ratios.size(); ++i) {
    EXPECT_TRUE(at::allclose(ours[i].second, groups[i].params().front(), 1e-6, 1e-6)) << ratios[i];
  }
  EXPECT_TRUE(at::equal(ours[2].second, untouched));
  EXPECT_TRUE(raises([&] { AdamW(ours, options, {1.0}); }, "each of 3 parameters, found 1"));
}

TEST(AdamW, ContinuesBitForBitFromItsSavedState) {
  const at::Tensor start = at::randn({301});
  std::vector<at::Tensor> gradients;
  for (int step = 0; step < 8; ++step) {
    gradients.push_back(at::randn({301}));
  }
  const at::Tensor whole = start.clone().requires_grad_();
  AdamW undisturbed({{"p", whole}}, {});
  const at::Tensor resumed = start.clone().requires_grad_();
  AdamW first({{"p", resumed}}, {});
  for (int step = 0; step < 8; ++step) {
    whole.mutable_grad() = gradients[static_cast<std::size_t>(step)].clone();
    undisturbed.step(1e-2);
  }
  for (int step = 0; step < 3; ++step) {
    resumed.mutable_grad() = gradients[static_cast<std::size_t>(step)].clone();
    first.step(1e-2);
  }
  AdamW second({{"p", resumed}}, {});
  second.load_state(as_map(first.state()));
  for (int step = 3; step < 8; ++step) {
    resumed.mutable_grad() = gradients[static_cast<std::size_t>(step)].clone();
    second.step(1e-2);
  }
  EXPECT_TRUE(at::equal(whole, resumed));
}

TEST(AdamW, NamesWhatAStateLacks) {
  const at::Tensor a = at::randn({3}).requires_grad_();
  const at::Tensor b = at::randn({4}).requires_grad_();
  AdamW optimizer({{"a", a}, {"b", b}}, {});
  std::map<std::string, at::Tensor> state = as_map(optimizer.state());
  state.erase("exp_avg.a");
  state["exp_avg_sq.b"] = at::randn({5});
  try {
    optimizer.load_state(state);
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("missing: exp_avg.a"), std::string::npos) << text;
    EXPECT_NE(text.find("exp_avg_sq.b: expected [4], found [5]"), std::string::npos) << text;
  }
}

TEST(AdamW, KeepsSmallUpdatesOfHalfParametersInTheirMasters) {
  const at::Tensor parameter = at::full({4}, 1.0, at::kBFloat16).requires_grad_();
  AdamW optimizer({{"p", parameter}}, {});
  for (int step = 0; step < 100; ++step) {
    parameter.mutable_grad() = at::full({4}, 1.0, at::kBFloat16);
    optimizer.step(1e-4);  // far below bfloat16's resolution at 1
  }
  EXPECT_NEAR(parameter[0].item<double>(), 0.99, 0.004);
}

TEST(Gradients, AreUnscaledAndClippedToTheGlobalNorm) {
  const at::Tensor a = at::full({4}, 0.0).requires_grad_();
  const at::Tensor b = at::full({5}, 0.0).requires_grad_();
  AdamW optimizer({{"a", a}, {"b", b}}, {});
  a.mutable_grad() = at::full({4}, 20.0);
  b.mutable_grad() = at::full({5}, 30.0);
  const double norm = std::sqrt(4 * 4.0 + 5 * 9.0);
  EXPECT_NEAR(optimizer.collect_gradients(10.0, 1.0), norm, 1e-5);
  EXPECT_NEAR(a.grad()[0].item<double>(), 2.0 / norm, 1e-5);
  EXPECT_NEAR(b.grad()[0].item<double>(), 3.0 / norm, 1e-5);
  a.mutable_grad() = at::full({4}, 20.0);
  EXPECT_GT(optimizer.collect_gradients(10.0, 0.0), 1.0);
  EXPECT_EQ(a.grad()[0].item<double>(), 2.0);
  a.mutable_grad() = at::full({4}, HUGE_VAL);
  EXPECT_FALSE(std::isfinite(optimizer.collect_gradients(10.0, 1.0)));
}

// The path of a device, on tensors of the CPU: the same numbers, decided by tensors.
TEST(AdamW, ClipsAndSkipsWithoutLookingAtTheNumbers) {
  const auto parameter = [] { return at::full({6}, 1.0).requires_grad_(); };
  const at::Tensor host = parameter();
  const at::Tensor device = parameter();
  AdamW of_host({{"p", host}}, {.weight_decay = 0.01});
  AdamW of_device({{"p", device}}, {.weight_decay = 0.01});
  const at::Tensor scale = at::full({}, 64.0);
  for (const double value : {3.0, 1e-3, HUGE_VAL, 0.7}) {  // clipped, not clipped, skipped, clipped
    const at::Tensor gradient = at::full({6}, 64.0 * value);
    host.mutable_grad() = gradient.clone();
    device.mutable_grad() = gradient.clone();
    const double norm = of_host.collect_gradients(64.0, 1.0);
    const at::Tensor found = of_device.collect_on_device(scale, 1.0);
    if (std::isfinite(norm)) {
      EXPECT_NEAR(found.item<double>(), norm, 1e-6 * norm);
      of_host.step(1e-2);
    } else {
      EXPECT_FALSE(std::isfinite(found.item<double>()));
    }
    EXPECT_EQ(of_device.found_inf().item<float>(), std::isfinite(value) ? 0.0F : 1.0F);
    of_device.step(1e-2);
    EXPECT_TRUE(at::allclose(device, host, 1e-6, 1e-7)) << value;
  }
  EXPECT_EQ(as_map(of_device.state())["steps"].item<std::int64_t>(), 3);
  EXPECT_TRUE(at::equal(as_map(of_device.state())["steps"], as_map(of_host.state())["steps"]));
}

TEST(AdamW, ASkippedStepLeavesEveryByteAsItIs) {
  const at::Tensor a = at::randn({5}).requires_grad_();
  const at::Tensor b = at::randn({3}).requires_grad_();
  AdamW optimizer({{"a", a}, {"b", b}}, {});
  a.mutable_grad() = at::randn({5});
  b.mutable_grad() = at::randn({3});
  optimizer.step(1e-2);
  auto before = as_map(optimizer.state());
  before["a"] = a.detach().clone();
  before["b"] = b.detach().clone();
  a.mutable_grad() = at::full({5}, std::nan(""));
  b.mutable_grad() = at::randn({3});
  optimizer.collect_on_device({}, 0.0);
  optimizer.step(1e-2);
  auto after = as_map(optimizer.state());
  after["a"] = a.detach().clone();
  after["b"] = b.detach().clone();
  for (const auto& [name, tensor] : before) {
    EXPECT_TRUE(at::equal(after.at(name), tensor)) << name;
  }
}

TEST(LossScaler, HalvesOnOverflowAndGrowsAfterManyGoodSteps) {
  LossScaler scaler(true);
  EXPECT_EQ(scaler.scale(), 65536.0);
  EXPECT_TRUE(scaler.skip_step());
  EXPECT_EQ(scaler.scale(), 32768.0);
  EXPECT_EQ(scaler.skipped_in_a_row(), 1);
  for (int step = 0; step < LossScaler::kGrowthInterval; ++step) {
    scaler.good_step();
  }
  EXPECT_EQ(scaler.scale(), 65536.0);
  EXPECT_EQ(scaler.skipped_in_a_row(), 0);
  while (scaler.scale() > 1.0) {
    EXPECT_TRUE(scaler.skip_step());
  }
  EXPECT_FALSE(scaler.skip_step());
  EXPECT_EQ(scaler.skipped_steps(), 17);
  EXPECT_EQ(scaler.skipped_in_a_row(), 16);
  LossScaler off(false);
  EXPECT_EQ(off.scale(), 1.0);
  EXPECT_FALSE(off.skip_step());
  EXPECT_EQ(off.skipped_steps(), 0);
}

TEST(Schedule, WarmsUpAndFallsToZero) {
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::linear, 0, 100, 10), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::linear, 9, 100, 10), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::linear, 10, 100, 10), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::linear, 55, 100, 10), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::cosine, 55, 100, 10), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::constant, 99, 100, 0), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::linear, 0, 1, 0), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(Schedule::cosine, 200, 100, 0), 0.0);
}

}  // namespace
}  // namespace moelora::train
