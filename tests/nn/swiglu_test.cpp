#include "moelora/nn/swiglu.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::nn {
namespace {

double swiglu_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

struct GatedLayout {
  GateAndUp values, gradients;
};

GatedLayout laid_out(bool fused, std::int64_t rows, std::int64_t width, const at::TensorOptions& options) {
  if (fused) {
    const at::Tensor both = (3.0 * at::randn({rows, 2 * width})).to(options.dtype()).to(options.device());
    return {gate_and_up(both), gate_and_up(at::zeros_like(both))};
  }
  const auto random = [&] { return (3.0 * at::randn({rows, width})).to(options.dtype()).to(options.device()); };
  return {{random(), random()}, {random(), random()}};
}

TEST(SwiGlu, TakesTheGatesColumnsFirst) {
  const at::Tensor fused = at::arange(12, at::kFloat).view({2, 6});
  EXPECT_TRUE(at::equal(gate_and_up(fused).gate, fused.slice(1, 0, 3)));
  EXPECT_TRUE(at::equal(gate_and_up(fused).up, fused.slice(1, 3, 6)));
}

TEST(SwiGlu, EqualsPlainOperationsInBothLayouts) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    const double bound = type == at::kFloat ? 2e-6 : type == at::kDouble ? 1e-13 : type == at::kHalf ? 4e-3 : 3e-2;
    for (const bool fused : {false, true}) {
      for (const std::int64_t width : {1, 5, 160, 1025}) {
        const GatedLayout layout = laid_out(fused, 6, width, type);
        at::Tensor gate = layout.values.gate.clone().requires_grad_(), up = layout.values.up.clone().requires_grad_();
        const at::Tensor dy = at::randn({6, width}).to(type);
        const at::Tensor expected = at::silu(gate) * up;
        expected.backward(dy);
        const auto largest = [](const at::Tensor& x) { return std::max(1.0, x.abs().max().item<double>()); };
        const at::Tensor y = swiglu(layout.values.gate, layout.values.up);
        EXPECT_TRUE(y.is_contiguous());
        EXPECT_LE(swiglu_difference(y, expected), bound * largest(expected)) << type << width;
        swiglu_backward(dy, layout.values.gate, layout.values.up, layout.gradients.gate, layout.gradients.up);
        EXPECT_LE(swiglu_difference(layout.gradients.gate, gate.grad()), bound * largest(gate.grad())) << type << width;
        EXPECT_LE(swiglu_difference(layout.gradients.up, up.grad()), bound * largest(up.grad())) << type << width;
        const at::Tensor in_place = dy.clone();
        swiglu_backward(in_place, layout.values.gate, layout.values.up, layout.gradients.gate, in_place);
        EXPECT_TRUE(at::equal(in_place, layout.gradients.up)) << type << width;
      }
    }
  }
}

TEST(SwiGlu, GradientsAreThoseOfFiniteDifferences) {
  const at::Tensor gate = 2.0 * at::randn({2, 5}, at::kDouble), up = at::randn({2, 5}, at::kDouble);
  const at::Tensor dy = at::randn({2, 5}, at::kDouble);
  at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
  swiglu_backward(dy, gate, up, dgate, dup);
  const auto value = [&](const at::Tensor& g, const at::Tensor& u) { return (swiglu(g, u) * dy).sum().item<double>(); };
  constexpr double kStep = 1e-6;
  for (std::int64_t i = 0; i < gate.numel(); ++i) {
    const at::Tensor step = at::zeros({10}, at::kDouble);
    step[i] = kStep;
    const at::Tensor by = step.view({2, 5});
    EXPECT_NEAR((value(gate + by, up) - value(gate - by, up)) / (2.0 * kStep), dgate.view(-1)[i].item<double>(), 1e-7);
    EXPECT_NEAR((value(gate, up + by) - value(gate, up - by)) / (2.0 * kStep), dup.view(-1)[i].item<double>(), 1e-7);
  }
}

TEST(SwiGlu, IsFiniteFarOut) {
  const at::Tensor gate = at::tensor({-60000.0f, -90.0f, 0.0f, 90.0f, 60000.0f}).view({1, 5});
  const at::Tensor up = at::ones({1, 5}), dy = at::ones({1, 5});
  EXPECT_LE(swiglu_difference(swiglu(gate, up), gate.clamp_min(0.0)), 1e-30);
  at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(gate);
  swiglu_backward(dy, gate, up, dgate, dup);
  EXPECT_LE(swiglu_difference(dgate, at::tensor({0.0, 0.0, 0.5, 1.0, 1.0}).view({1, 5})), 1e-30);
  EXPECT_LE(swiglu_difference(dup, gate.clamp_min(0.0)), 1e-30);
}

TEST(SwiGlu, RunsOnADevice) {
  const at::Device device = testing::pretend::install();
  for (const bool fused : {false, true}) {
    const GatedLayout layout = laid_out(fused, 3, 10, at::TensorOptions(at::kFloat).device(device));
    const at::Tensor gate = layout.values.gate.cpu(), up = layout.values.up.cpu(), dy = at::randn({3, 10});
    EXPECT_LE(swiglu_difference(swiglu(layout.values.gate, layout.values.up).cpu(), swiglu(gate, up)), 1e-5);
    swiglu_backward(dy.to(device), layout.values.gate, layout.values.up, layout.gradients.gate, layout.gradients.up);
    at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    swiglu_backward(dy, gate, up, dgate, dup);
    EXPECT_LE(swiglu_difference(layout.gradients.gate.cpu(), dgate), 1e-5);
    EXPECT_LE(swiglu_difference(layout.gradients.up.cpu(), dup), 1e-5);
  }
}

TEST(SwiGluKernels, EqualTheirFormulas) {
  for (const kernels::CpuKernels* set : kernels::available_cpu_kernels()) {
    for (const std::int64_t width : {1, 3, 16, 67}) {
      const at::Tensor gate = 4.0 * at::randn({width}), up = at::randn({width}), dy = at::randn({width});
      const at::Tensor exact = gate.to(at::kDouble);
      at::Tensor y = at::empty({width}), dgate = at::empty({width}), dup = at::empty({width});
      set->swiglu_row(gate.const_data_ptr<float>(), up.const_data_ptr<float>(), y.mutable_data_ptr<float>(), width);
      EXPECT_LE(swiglu_difference(y, at::silu(exact) * up), 1e-5) << set->name;
      set->swiglu_backward_row(gate.const_data_ptr<float>(), up.const_data_ptr<float>(), dy.const_data_ptr<float>(),
                               dgate.mutable_data_ptr<float>(), dup.mutable_data_ptr<float>(), width);
      EXPECT_LE(swiglu_difference(dgate, at::silu_backward(dy.to(at::kDouble) * up, exact)), 1e-5) << set->name;
      EXPECT_LE(swiglu_difference(dup, dy.to(at::kDouble) * at::silu(exact)), 1e-5) << set->name;
    }
  }
}

}  // namespace
}  // namespace moelora::nn
