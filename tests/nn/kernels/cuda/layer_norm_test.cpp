#include "nn/kernels/cuda/layer_norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/kernels/cuda/rounding.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

constexpr double kEpsilon = 1e-5, kScale = 7.483314773547883;

class DeviceNorm : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  struct Input {
    at::Tensor x, residual, weight, bias, dy;
  };
  Input input(std::int64_t width) const {
    const auto of = [&](at::IntArrayRef shape) { return at::randn(shape).to(GetParam()); };
    return {of({3, width}), of({3, width}), of({width}) + 1.0, of({width}), of({3, width})};
  }
  const testing::HostKernels kernels_;
};

const std::int64_t kWidths[] = {1, 6, 32, 1000, 1028, 2052};

// The statistics are those of the rounded sum, which is what backward knows.
TEST_P(DeviceNorm, AddsAndNormalises) {
  for (const std::int64_t width : kWidths) {
    Input in = input(width);
    const at::Tensor sum = testing::exact(in.x) + kScale * testing::exact(in.residual);
    const auto found = kernels::add_and_normalise(in.x, in.residual, kScale, in.weight, in.bias, kEpsilon);
    EXPECT_TRUE(testing::rounds_to(in.x, sum)) << width;
    const auto [y, mean, rstd] = at::native_layer_norm(testing::exact(in.x), {width}, testing::exact(in.weight),
                                                       testing::exact(in.bias), kEpsilon);
    EXPECT_TRUE(testing::rounds_to(found.y, y)) << width;
    EXPECT_TRUE(testing::rounds_to(found.mean, mean)) << width;
    EXPECT_TRUE(testing::rounds_to(found.rstd / rstd, at::ones_like(rstd))) << width;
    const at::Tensor before = in.x.clone();
    EXPECT_TRUE(at::equal(kernels::add_and_normalise(in.x, {}, 0.0, in.weight, in.bias, kEpsilon).y, found.y));
    EXPECT_TRUE(at::equal(in.x, before));
    EXPECT_TRUE(at::equal(kernels::normalise_again(in.x, found.mean, found.rstd, in.weight, in.bias), found.y));
  }
}

TEST_P(DeviceNorm, HasLibTorchsBackward) {
  for (const std::int64_t width : {6, 32, 1000, 1028, 2052}) {
    for (const bool residual : {false, true}) {
      const Input in = input(width);
      const auto [y, mean, rstd] = at::native_layer_norm(testing::exact(in.x), {width}, testing::exact(in.weight),
                                                         testing::exact(in.bias), kEpsilon);
      const at::Tensor dy =
          residual ? testing::exact(in.dy) + kScale * testing::exact(in.residual) : testing::exact(in.dy);
      const at::Tensor expected = std::get<0>(
          at::native_layer_norm_backward(dy, testing::exact(in.x), {width}, mean, rstd, testing::exact(in.weight),
                                         testing::exact(in.bias), {true, false, false}));
      kernels::normalise_backward_(in.dy, residual ? in.residual : at::Tensor(), kScale, in.x, mean.to(at::kFloat),
                                   rstd.to(at::kFloat), in.weight);
      EXPECT_TRUE(testing::rounds_to(in.dy, expected)) << width << ' ' << residual;
    }
  }
}

// Sums of squares around the mean: a large common offset costs no digits.
TEST(DeviceNormStatistics, SurviveALargeOffset) {
  const testing::HostKernels kernels;
  const at::Tensor x = at::randn({2, 4096}) + 1000.0;
  const at::Tensor one = at::ones({4096}), zero = at::zeros({4096});
  const auto [y, mean, rstd] =
      at::native_layer_norm(testing::exact(x), {4096}, testing::exact(one), testing::exact(zero), kEpsilon);
  const auto found = kernels::add_and_normalise(x, at::zeros_like(x), 1.0, one, zero, kEpsilon);
  EXPECT_LE((found.rstd / rstd - 1.0).abs().max().item<double>(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceNorm, testing::kernel_types(), testing::type_name);

}  // namespace
}  // namespace moelora::nn
