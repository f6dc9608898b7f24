#include "moelora/nn/rms_norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::nn {
namespace {

constexpr double kSmall = 1e-6;

double rms_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

RmsNorm random_norm(std::int64_t width, at::ScalarType type = at::kFloat) {
  RmsNorm norm((at::randn({width}) + 1.0).to(type), kSmall);
  norm->weight.set_requires_grad(false);
  return norm;
}

TEST(RmsNorm, IsItsFormula) {
  RmsNorm norm = random_norm(5);
  const at::Tensor x = at::randn({2, 3, 5});
  const at::Tensor exact = x.to(at::kDouble);
  const at::Tensor expected = exact / at::sqrt(exact.square().mean(-1, true) + kSmall) * norm->weight;
  EXPECT_LE(rms_difference(norm->forward(x), expected), 1e-6);
}

// In a half type the quotient is rounded before it is scaled.
TEST(RmsNorm, RoundsBeforeItScales) {
  RmsNorm norm = random_norm(64, at::kHalf);
  const at::Tensor x = at::randn({8, 64}).to(at::kHalf);
  const at::Tensor quotient =
      (x.to(at::kFloat) * at::rsqrt(x.to(at::kFloat).square().mean(-1, true) + kSmall)).to(at::kHalf);
  EXPECT_TRUE(at::equal(norm->forward(x), norm->weight * quotient));
}

TEST(RmsNorm, WrittenOutEqualsPlainOperations) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    const double bound = type == at::kFloat ? 2e-6 : type == at::kDouble ? 1e-12 : type == at::kHalf ? 2e-2 : 1e-1;
    for (const std::int64_t width : {1, 7, 64, 577}) {
      RmsNorm norm = random_norm(width, type);
      at::Tensor x = at::randn({9, width}).to(type).requires_grad_();
      const at::Tensor y = norm->forward(x);
      const at::Tensor dy = at::randn({9, width}).to(type);
      const at::Tensor residual = at::randn({9, width}).to(type);
      y.backward(dy);
      const RmsNormResult found = rms_norm_forward(*norm, x.detach());
      EXPECT_LE(rms_difference(found.y, y), bound) << type << width;
      EXPECT_FALSE(found.y.requires_grad());
      EXPECT_TRUE(at::equal(rms_norm_again(*norm, x.detach(), found.rstd), found.y)) << type << width;
      // The gradient is a difference of terms of this size, which cancel where a row has one element.
      const double terms =
          ((dy * norm->weight).to(at::kDouble).abs().amax(-1) * found.rstd.view(-1)).max().item<double>();
      at::Tensor gradient = dy.clone();
      EXPECT_LE(rms_difference(rms_norm_backward(*norm, gradient, {}, x.detach(), found.rstd), x.grad()),
                bound * std::max(1.0, terms))
          << type << width;
      gradient = dy.clone();
      EXPECT_LE(
          rms_difference(rms_norm_backward(*norm, gradient, residual, x.detach(), found.rstd), x.grad() + residual),
          bound * std::max(1.0, terms))
          << type << width;
    }
  }
}

TEST(RmsNorm, AddsTheResidualFirst) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf}) {
    RmsNorm norm = random_norm(65, type);
    at::Tensor x = at::randn({5, 65}).to(type);
    const at::Tensor residual = at::randn({5, 65}).to(type);
    const at::Tensor sum = x + residual;
    const RmsNormResult found = add_then_rms_norm(*norm, x, residual);
    EXPECT_TRUE(at::equal(x, sum));
    EXPECT_TRUE(at::equal(found.y, rms_norm_forward(*norm, sum).y));
  }
}

TEST(RmsNorm, GradientsAreThoseOfFiniteDifferences) {
  RmsNorm norm = random_norm(6, at::kDouble);
  const at::Tensor x = at::randn({3, 6}, at::kDouble);
  const at::Tensor dy = at::randn({3, 6}, at::kDouble);
  const auto value = [&](const at::Tensor& at) { return (norm->forward(at) * dy).sum().item<double>(); };
  const RmsNormResult result = rms_norm_forward(*norm, x);
  at::Tensor gradient = dy.clone();
  gradient = rms_norm_backward(*norm, gradient, {}, x, result.rstd);
  constexpr double kStep = 1e-6;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    at::Tensor more = x.clone(), less = x.clone();
    more.view(-1)[i] += kStep;
    less.view(-1)[i] -= kStep;
    EXPECT_NEAR((value(more) - value(less)) / (2.0 * kStep), gradient.view(-1)[i].item<double>(), 1e-7) << i;
  }
}

TEST(RmsNorm, RunsOnADevice) {
  const at::Device device = testing::pretend::install();
  RmsNorm norm = random_norm(36);
  RmsNorm there(norm->weight.to(device), kSmall);
  at::Tensor x = at::randn({4, 36});
  const at::Tensor residual = at::randn({4, 36}), dy = at::randn({4, 36});
  at::Tensor x_there = x.to(device), dy_here = dy.clone(), dy_there = dy.to(device);
  const RmsNormResult here = add_then_rms_norm(*norm, x, residual);
  const RmsNormResult found = add_then_rms_norm(*there, x_there, residual.to(device));
  EXPECT_LE(rms_difference(found.y.cpu(), here.y), 2e-6);
  EXPECT_LE(rms_difference(rms_norm_again(*there, x_there, found.rstd).cpu(), here.y), 2e-6);
  EXPECT_LE(rms_difference(rms_norm_backward(*there, dy_there, x_there, x_there, found.rstd).cpu(),
                           rms_norm_backward(*norm, dy_here, x, x, here.rstd)),
            1e-5);
}

// Each instruction set's rows beside plain loops.
TEST(RmsNormKernels, EqualTheirFormulas) {
  for (const kernels::CpuKernels* set : kernels::available_cpu_kernels()) {
    for (const std::int64_t width : {1, 3, 16, 67}) {
      const at::Tensor x = at::randn({width}), weight = at::randn({width}), dy = at::randn({width}),
                       residual = at::randn({width});
      const at::Tensor exact = x.to(at::kDouble);
      const double inverse = 1.0 / std::sqrt(exact.square().mean().item<double>() + kSmall);
      const float rstd = set->rms_row(x.const_data_ptr<float>(), static_cast<float>(kSmall), width);
      EXPECT_NEAR(rstd / inverse, 1.0, 1e-6) << set->name;
      at::Tensor y = at::empty({width});
      set->rms_normalise_row(x.const_data_ptr<float>(), rstd, weight.const_data_ptr<float>(),
                             y.mutable_data_ptr<float>(), width);
      EXPECT_LE(rms_difference(y, exact * inverse * weight), 1e-5) << set->name;
      const at::Tensor g = dy.to(at::kDouble) * weight;
      const at::Tensor dx = inverse * (g - exact * inverse * inverse * (g * exact).mean());
      for (const bool added : {false, true}) {
        at::Tensor found = dy.clone();
        set->rms_normalise_backward_row(x.const_data_ptr<float>(), rstd, weight.const_data_ptr<float>(),
                                        added ? residual.const_data_ptr<float>() : nullptr,
                                        found.mutable_data_ptr<float>(), width);
        EXPECT_LE(rms_difference(found, added ? dx + residual : dx), 2e-5 * std::max(1.0, inverse)) << set->name;
      }
      at::Tensor sum = x.clone();
      set->add_row(sum.mutable_data_ptr<float>(), dy.const_data_ptr<float>(), width);
      EXPECT_TRUE(at::equal(sum, x + dy)) << set->name;
    }
  }
}

}  // namespace
}  // namespace moelora::nn
