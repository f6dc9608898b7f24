#include "nn/kernels/cuda/fold.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nn/kernels/cpu/fold.h"
#include "support/host_launcher.h"

namespace moelora::nn::kernels {
namespace {

class DeviceFold : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  struct Problem {
    at::Tensor source, A, B;
  };
  Problem problem(std::int64_t rows, std::int64_t columns, std::int64_t r) const {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(rows * 1000 + columns));
    return {at::empty({rows, columns}).normal_(0.0, 1.0, generator).to(GetParam()),
            at::empty({r, columns}).normal_(0.0, 0.3, generator), at::empty({rows, r}).normal_(0.0, 0.3, generator)};
  }

  const moelora::testing::HostKernels kernels_;
};

// Rows, columns and ranks that fill a block's, and that don't.
constexpr std::int64_t kFoldShapes[][3] = {{1, 1, 1},    {64, 128, 8}, {65, 132, 4}, {17, 65, 16},
                                           {130, 96, 5}, {9, 500, 96}, {24, 64, 1},  {70, 260, 6}};

TEST_P(DeviceFold, IsTheSumOfTheCpusFusedProductsToTheBit) {
  for (const CpuKernels* cpu : available_cpu_kernels()) {
    const bool fused = std::string(cpu->name) != "plain";  // its products are rounded before they are added
    for (const auto& [rows, columns, r] : kFoldShapes) {
      const Problem p = problem(rows, columns, r);
      for (const bool measure : {false, true}) {
        const at::Tensor expected = at::empty_like(p.source);
        const FoldExtremes wanted = fold_in_one_pass(expected, p.source, p.B, p.A, measure, *cpu);
        const at::Tensor out = at::empty_like(p.source);
        const at::Tensor found = fold_on_device(out, p.source, p.B, p.A, measure);
        const at::Tensor in_place = p.source.clone();
        fold_on_device(in_place, in_place, p.B, p.A, measure);
        EXPECT_TRUE(at::equal(in_place, out));
        if (fused) {
          EXPECT_TRUE(at::equal(out, expected)) << rows << " x " << columns << " x " << r;
        } else {
          EXPECT_TRUE(at::allclose(out.to(at::kFloat), expected.to(at::kFloat), 1e-2, 1e-5));
        }
        ASSERT_EQ(found.defined(), measure);
        if (measure && fused) {
          // Sums in fp64 may differ in their last bit.
          EXPECT_NEAR(found[0].item<double>(), wanted.rounding, 1e-15) << rows << " x " << columns << " x " << r;
          EXPECT_NEAR(found[1].item<double>(), wanted.update, 1e-15);
        }
      }
    }
  }
}

TEST_P(DeviceFold, TakesFactorsThatBeginAnywhere) {
  const Problem p = problem(20, 64, 8);
  const at::Tensor expected = at::empty_like(p.source);
  fold_on_device(expected, p.source, p.B, p.A, false);
  const at::Tensor B = at::empty({20 * 8 + 1}).narrow(0, 1, 20 * 8).view({20, 8}).copy_(p.B);
  const at::Tensor A = at::empty({8 * 64 + 1}).narrow(0, 1, 8 * 64).view({8, 64}).copy_(p.A);
  const at::Tensor out = at::empty_like(p.source);
  fold_on_device(out, p.source, B, A, false);
  EXPECT_TRUE(at::equal(out, expected));
  fold_on_device(out, p.source, p.B.t().contiguous().t(), p.A.t().contiguous().t(), false);
  EXPECT_TRUE(at::equal(out, expected));
}

TEST_P(DeviceFold, ASumOutOfRangeIsNotLost) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Problem p = problem(70, 71, 4);
    p.source[66][70] = bad;
    const at::Tensor extremes = fold_on_device(p.source, p.source, p.B, p.A, true);
    EXPECT_TRUE(std::isinf(extremes[0].item<double>()));
    EXPECT_TRUE(std::isfinite(extremes[1].item<double>()));
    EXPECT_FALSE(std::isfinite(p.source[66][70].item<float>()));
  }
}

TEST_P(DeviceFold, AnUpdateThatLeavesTheRangeOfHalfShows) {
  Problem p = problem(8, 8, 2);
  p.B.fill_(200.0);
  p.A.fill_(200.0);
  const at::Tensor extremes = fold_on_device(p.source, p.source, p.B, p.A, true);
  EXPECT_EQ(std::isinf(extremes[0].item<double>()), GetParam() == at::kHalf);
  EXPECT_EQ(extremes[1].item<double>(), 80000.0);
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceFold, ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

TEST(DeviceFoldTakes, NoTensorOfTheCpu) { EXPECT_FALSE(folds_on_device(at::zeros({2, 2}), at::zeros({2, 2}))); }

}  // namespace
}  // namespace moelora::nn::kernels
