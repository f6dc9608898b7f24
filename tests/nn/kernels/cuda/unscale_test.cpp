#include "nn/kernels/cuda/unscale.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/host_launcher.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::nn {
namespace {

struct GradientCase {
  std::string name;
  std::vector<std::vector<std::int64_t>> shapes;
  double size = 1.0;  // of the elements
  double loss_scale = 0.0;
  double max_norm = 0.0;
  double spoiled = 0.0;  // one element, unless it is 0
};

class DeviceUnscale : public ::testing::TestWithParam<GradientCase> {
 protected:
  const testing::HostKernels kernels_;
};

/// The reference: everything in fp64.
TEST_P(DeviceUnscale, DecidesAsTheDefinitionSays) {
  const GradientCase& given = GetParam();
  std::vector<at::Tensor> gradients;
  double squares = 0.0;
  for (const auto& shape : given.shapes) {
    gradients.push_back(given.size * at::randn(shape));
  }
  if (given.spoiled != 0.0) {
    gradients.back().view({-1})[-1] = given.spoiled;
  }
  for (const at::Tensor& gradient : gradients) {
    squares += gradient.to(at::kDouble).square().sum().item<double>();
  }
  const double scale = given.loss_scale > 0.0 ? given.loss_scale : 1.0;
  const auto decision = kernels::decide_step(
      gradients, given.loss_scale > 0.0 ? at::full({}, scale, at::kFloat) : at::Tensor(), given.max_norm);
  const double norm = std::sqrt(squares) / scale;
  if (!std::isfinite(norm)) {
    EXPECT_FALSE(std::isfinite(decision.norm.item<double>()));
    EXPECT_EQ(decision.found_inf.item<float>(), 1.0F);
    return;
  }
  EXPECT_NEAR(decision.norm.item<double>(), norm, 1e-5 * norm);
  EXPECT_EQ(decision.found_inf.item<float>(), 0.0F);
  const double clipped = given.max_norm > 0.0 ? std::max(1.0, (norm + 1e-6) / given.max_norm) : 1.0;
  EXPECT_NEAR(decision.grad_scale.item<double>(), scale * clipped, 1e-5 * scale * clipped);
  const auto again = kernels::decide_step(
      gradients, given.loss_scale > 0.0 ? at::full({}, scale, at::kFloat) : at::Tensor(), given.max_norm);
  EXPECT_TRUE(at::equal(again.norm, decision.norm)) << "the order of the sums is fixed";
}

TEST(DeviceUnscaleOf, TakesFp32OfOneDeviceAlone) {
  const at::TensorOptions device(testing::pretend::install());
  EXPECT_FALSE(kernels::has_unscale_kernels({at::zeros({3})})) << "no kernels for the CPU";
  EXPECT_TRUE(kernels::has_unscale_kernels({at::zeros({3}, device)}));
  EXPECT_FALSE(kernels::has_unscale_kernels({}));
  EXPECT_FALSE(kernels::has_unscale_kernels({at::zeros({3}, device), at::zeros({3}, device.dtype(at::kHalf))}));
  EXPECT_FALSE(kernels::has_unscale_kernels({at::zeros({3, 4}, device).t()}));
}

const std::vector<std::vector<std::int64_t>> kMany(300, {5, 7});

INSTANTIATE_TEST_SUITE_P(
    Cases, DeviceUnscale,
    ::testing::Values(GradientCase{.name = "small", .shapes = {{3}, {1}, {5, 2}}},
                      GradientCase{.name = "chunks", .shapes = {{16384}, {16385}, {3, 20000}, {0}, {7}}},
                      GradientCase{.name = "many", .shapes = kMany, .max_norm = 1.0},
                      GradientCase{.name = "scaled", .shapes = kMany, .loss_scale = 65536.0},
                      GradientCase{.name = "clipped", .shapes = {{400}}, .loss_scale = 1024.0, .max_norm = 1e-3},
                      GradientCase{.name = "not_clipped", .shapes = {{40}}, .loss_scale = 1024.0, .max_norm = 1.0},
                      GradientCase{.name = "infinite", .shapes = kMany, .loss_scale = 2.0, .spoiled = HUGE_VAL},
                      GradientCase{.name = "nan", .shapes = {{9}, {20000}}, .max_norm = 1.0, .spoiled = NAN}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moelora::nn
