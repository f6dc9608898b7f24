#include "nn/kernels/cuda/rms_norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/nn/rms_norm.h"
#include "nn/kernels/cuda/rounding.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

constexpr double kRmsEpsilon = 1e-5;

class DeviceRmsNorm : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  struct Input {
    at::Tensor x, residual, weight, dy;
  };
  Input input(std::int64_t width) const {
    const auto of = [&](at::IntArrayRef shape) { return at::randn(shape).to(GetParam()); };
    return {of({3, width}), of({3, width}), of({width}), of({3, width})};
  }
  const testing::HostKernels kernels_;
};

const std::int64_t kRmsWidths[] = {1, 6, 32, 1000, 1028, 2052};

// As RmsNormImpl::forward: rounded before it is scaled.
at::Tensor rms_reference(const at::Tensor& x, const at::Tensor& weight) {
  const at::Tensor rows = testing::exact(x);
  return testing::exact((rows * at::rsqrt(rows.square().mean(1, true) + kRmsEpsilon)).to(x.scalar_type())) *
         testing::exact(weight);
}

TEST_P(DeviceRmsNorm, AddsAndNormalises) {
  for (const std::int64_t width : kRmsWidths) {
    Input in = input(width);
    const at::Tensor sum = testing::exact(in.x) + testing::exact(in.residual);
    const auto found = kernels::add_and_rms_normalise(in.x, in.residual, in.weight, kRmsEpsilon);
    EXPECT_TRUE(testing::rounds_to(in.x, sum)) << width;
    const at::Tensor rstd = at::rsqrt(testing::exact(in.x).square().mean(1, true) + kRmsEpsilon);
    EXPECT_TRUE(testing::rounds_to(found.rstd / rstd, at::ones_like(rstd))) << width;
    // A quotient at the boundary between two values may round to the other one.
    EXPECT_LE((testing::exact(found.y) - rms_reference(in.x, in.weight)).abs().max().item<double>(),
              4.0 * testing::rounding_of(GetParam()) * testing::exact(found.y).abs().max().item<double>())
        << width;
    const at::Tensor before = in.x.clone();
    EXPECT_TRUE(at::equal(kernels::add_and_rms_normalise(in.x, {}, in.weight, kRmsEpsilon).y, found.y));
    EXPECT_TRUE(at::equal(in.x, before));
    EXPECT_TRUE(at::equal(kernels::rms_normalise_again(in.x, found.rstd, in.weight), found.y));
  }
}

TEST_P(DeviceRmsNorm, HasTheGradientOfItsDefinition) {
  for (const std::int64_t width : kRmsWidths) {
    for (const bool residual : {false, true}) {
      const Input in = input(width);
      at::Tensor x = testing::exact(in.x).requires_grad_();
      RmsNorm norm(testing::exact(in.weight), kRmsEpsilon);
      norm->forward(x).backward(testing::exact(in.dy));
      const at::Tensor expected = residual ? x.grad() + testing::exact(in.residual) : x.grad();
      const at::Tensor rstd = at::rsqrt(testing::exact(in.x).square().mean(1, true) + kRmsEpsilon).to(at::kFloat);
      kernels::rms_normalise_backward_(in.dy, residual ? in.residual : at::Tensor(), in.x, rstd, in.weight);
      EXPECT_TRUE(testing::rounds_to(in.dy, expected)) << width << ' ' << residual;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceRmsNorm, testing::kernel_types(), testing::type_name);

}  // namespace
}  // namespace moelora::nn
