#include "nn/kernels/cpu/fold.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace moelora::nn::kernels {
namespace {

struct Problem {
  at::Tensor source, A, B;

  Problem(std::int64_t rows, std::int64_t columns, std::int64_t r, at::ScalarType dtype) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(rows * 1000 + columns));
    source = at::empty({rows, columns}).normal_(0.0, 1.0, generator).to(dtype);
    A = at::empty({r, columns}).normal_(0.0, 0.3, generator);
    B = at::empty({rows, r}).normal_(0.0, 0.3, generator);
  }
  at::Tensor update() const { return at::mm(B.to(at::kDouble), A.to(at::kDouble)); }
};

class Fold : public ::testing::TestWithParam<std::tuple<at::ScalarType, const CpuKernels*>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  const CpuKernels& kernels() const { return *std::get<1>(GetParam()); }
};

// Rows and columns that fill blocks and tiles, and that don't.
constexpr std::int64_t kShapes[][3] = {{1, 1, 1},   {8, 32, 8},    {3, 31, 4},     {17, 65, 16},
                                       {40, 96, 5}, {9, 2000, 96}, {64, 4128, 64}, {24, 64, 1}};

TEST_P(Fold, IsTheSumRoundedOnceInPlaceAndFromACopyMeasuredOrNot) {
  for (const auto& [rows, columns, r] : kShapes) {
    const Problem problem(rows, columns, r, dtype());
    const at::Tensor update = problem.update();
    const at::Tensor exact = problem.source.to(at::kDouble) + update;
    const at::Tensor out = at::empty_like(problem.source);
    ASSERT_TRUE(folds_in_one_pass(out, problem.source));
    fold_in_one_pass(out, problem.source, problem.B, problem.A, false, kernels());
    // Half a unit in the last place of the type, and a little for the fp32 sum before it.
    const double unit = dtype() == at::kHalf ? 0x1p-11 : dtype() == at::kBFloat16 ? 0x1p-8 : 0x1p-23;
    EXPECT_TRUE(((out.to(at::kDouble) - exact).abs() <= exact.abs() * unit + 4e-6).all().item<bool>())
        << rows << " x " << columns << " x " << r;
    for (const bool measure : {false, true}) {
      const at::Tensor in_place = problem.source.clone();
      fold_in_one_pass(in_place, in_place, problem.B, problem.A, measure, kernels());
      EXPECT_TRUE(at::equal(in_place, out)) << rows << " x " << columns << " x " << r << " measured: " << measure;
    }
    const at::Tensor measured = at::empty_like(out);
    const auto extremes = fold_in_one_pass(measured, problem.source, problem.B, problem.A, true, kernels());
    EXPECT_TRUE(at::equal(measured, out));
    const bool wide = dtype() == at::kFloat;
    EXPECT_NEAR(extremes.update, update.abs().max().item<double>(), wide ? 1e-12 : 2e-6);
    EXPECT_NEAR(extremes.rounding, (out.to(at::kDouble) - exact).abs().max().item<double>(), wide ? 1e-12 : 4e-6);
  }
}

TEST_P(Fold, ThreadsAndPlaceMakeNoDifference) {
  const Problem problem(100, 1000, 16, dtype());
  const at::Tensor out = at::empty_like(problem.source);
  fold_in_one_pass(out, problem.source, problem.B, problem.A, false, kernels());
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor alone = at::empty_like(problem.source);
  fold_in_one_pass(alone, problem.source, problem.B, problem.A, false, kernels());
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(alone, out));
  // Some rows alone, at another alignment.
  const at::Tensor some = at::empty({13 * 1000 + 3}, out.options()).narrow(0, 3, 13 * 1000).view({13, 1000});
  fold_in_one_pass(some, problem.source.narrow(0, 50, 13), problem.B.narrow(0, 50, 13), problem.A, false, kernels());
  EXPECT_TRUE(at::equal(some, out.narrow(0, 50, 13)));
}

TEST_P(Fold, ASumOutOfRangeIsNotLost) {
  for (const std::int64_t column : {0, 70}) {
    Problem problem(20, 71, 4, dtype());
    problem.source[7][column] = std::numeric_limits<float>::infinity();
    const at::Tensor out = at::empty_like(problem.source);
    const auto extremes = fold_in_one_pass(out, problem.source, problem.B, problem.A, true, kernels());
    EXPECT_FALSE(std::isfinite(extremes.rounding));
    EXPECT_TRUE(std::isfinite(extremes.update));
    EXPECT_TRUE(std::isinf(out[7][column].item<float>()));
  }
}

std::string name_of_case(const ::testing::TestParamInfo<std::tuple<at::ScalarType, const CpuKernels*>>& info) {
  return std::string(c10::toString(std::get<0>(info.param))) + "_" + std::get<1>(info.param)->name;
}

INSTANTIATE_TEST_SUITE_P(All, Fold,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                                            ::testing::ValuesIn(available_cpu_kernels())),
                         name_of_case);

TEST(FoldTakes, OnlyContiguousMatricesOfKnownTypes) {
  const at::Tensor matrix = at::zeros({4, 6});
  EXPECT_TRUE(folds_in_one_pass(matrix, matrix));
  EXPECT_FALSE(folds_in_one_pass(matrix.t(), matrix.t()));
  EXPECT_FALSE(folds_in_one_pass(matrix, matrix.to(at::kHalf)));
  EXPECT_FALSE(folds_in_one_pass(matrix.to(at::kDouble), matrix.to(at::kDouble)));
}

}  // namespace
}  // namespace moelora::nn::kernels
