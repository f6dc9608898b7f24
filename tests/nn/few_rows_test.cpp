#include "moelora/nn/few_rows.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "moelora/nn/frozen_weight.h"
#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/stored_dtype.h"
#include "support/with_threads.h"

namespace moelora::nn {
namespace {

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kHalf, at::kBFloat16};

// Largest difference from the product in fp64, as a share of the sum of the products' magnitudes: what rounding to fp32
// may cost.
double rounding_of(const at::Tensor& y, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                   const at::Tensor& v, const at::Tensor& b) {
  const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
  at::Tensor expected = at::mm(wide(x), wide(weight).t());
  at::Tensor size = at::mm(wide(x).abs(), wide(weight).abs().t());
  if (bias.defined()) {
    expected = expected + wide(bias);
    size = size + wide(bias).abs();
  }
  if (v.defined()) {
    expected = expected + at::mm(wide(v), wide(b).t());
    size = size + at::mm(wide(v).abs(), wide(b).abs().t());
  }
  return ((wide(y) - expected).abs() / size).max().item<double>();
}

TEST(FewRows, EqualsThePlainProductForEveryDtypeAndSize) {
  at::manual_seed(1);
  for (const at::ScalarType dtype : kDtypes) {
    for (const auto& [d_in, d_out] : {std::pair{1, 1}, {15, 7}, {16, 3}, {33, 5}, {64, 17}, {257, 50}}) {
      for (std::int64_t rows = 1; rows <= 19; ++rows) {
        const at::Tensor x = at::randn({rows, d_in}).to(dtype);
        const at::Tensor weight = at::randn({d_out, d_in}).to(dtype);
        const at::Tensor bias = rows % 2 == 0 ? at::randn({d_out}).to(dtype) : at::Tensor();
        const at::Tensor y = few_rows_product(x, weight, bias, {}, {}, at::kFloat);
        ASSERT_EQ(y.sizes(), at::IntArrayRef({rows, d_out}));
        EXPECT_LT(rounding_of(y, x, weight, bias, {}, {}), 1e-6) << dtype << " " << d_in << " " << d_out << " " << rows;
        EXPECT_TRUE(at::equal(few_rows_product(x, weight, bias), y.to(dtype)));
      }
    }
  }
}

TEST(FewRows, AddsTheLowRankPart) {
  at::manual_seed(2);
  for (const at::ScalarType dtype : kDtypes) {
    for (const std::int64_t rank : {1, 8, 16, 24, 64}) {
      for (const std::int64_t rows : {1, 2, 5, 8, 11}) {
        const at::Tensor x = at::randn({rows, 48}).to(dtype);
        const at::Tensor weight = at::randn({29, 48}).to(dtype);
        const at::Tensor bias = at::randn({29}).to(dtype);
        const at::Tensor v = at::randn({rows, rank});
        const at::Tensor b = at::randn({29, rank});
        const at::Tensor y = few_rows_product(x, weight, bias, v, b, at::kFloat);
        EXPECT_LT(rounding_of(y, x, weight, bias, v, b), 1e-6) << dtype << " rank " << rank << " rows " << rows;
      }
    }
  }
}

// Stacked factors: rows take their own columns, and get the same bytes as with those columns alone.
TEST(FewRows, EachRowTakesItsColumnsOfTheLowRankPart) {
  at::manual_seed(5);
  for (const at::ScalarType dtype : kDtypes) {
    const at::Tensor x = at::randn({8, 200}).to(dtype);
    const at::Tensor weight = at::randn({1001, 200}).to(dtype);
    const at::Tensor bias = at::randn({1001}).to(dtype);
    const at::Tensor v = at::randn({8, 12});
    const at::Tensor b = at::randn({1001, 48});
    for (const std::vector<std::int64_t>& columns :
         std::vector<std::vector<std::int64_t>>{{24}, {36, 36, 36}, {0, 12, 12, 36, 0, 24, 24, 24}}) {
      const auto rows = static_cast<std::int64_t>(columns.size());
      const at::Tensor y =
          few_rows_product(x.narrow(0, 0, rows), weight, bias, v.narrow(0, 0, rows), b, at::kFloat, columns);
      for (std::int64_t row = 0; row < rows; ++row) {
        const at::Tensor own = b.narrow(1, columns[static_cast<std::size_t>(row)], 12).contiguous();
        const at::Tensor alone =
            few_rows_product(x.narrow(0, row, 1), weight, bias, v.narrow(0, row, 1), own, at::kFloat);
        EXPECT_TRUE(at::equal(y.narrow(0, row, 1), alone)) << dtype << " row " << row << " of " << rows;
      }
    }
  }
}

TEST(FewRows, EachRowTakesItsOwnRowsOfTheWeight) {
  at::manual_seed(6);
  const std::vector<std::int64_t> first{36, 0, 0, 7, 24};
  for (const at::ScalarType dtype : kDtypes) {
    const at::Tensor x = at::randn({5, 3001}).to(dtype);
    const at::Tensor weight = at::randn({48, 3001}).to(dtype);
    for (const int count : {1, 3}) {
      const testing::WithThreads with(count);
      const at::Tensor y = few_rows_own_product(x, weight, first, 12);
      for (std::int64_t row = 0; row < 5; ++row) {
        const at::Tensor own = weight.narrow(0, first[static_cast<std::size_t>(row)], 12);
        const at::Tensor alone = few_rows_product(x.narrow(0, row, 1), own, {}, {}, {}, at::kFloat);
        EXPECT_TRUE(at::equal(y.narrow(0, row, 1), alone)) << dtype << " row " << row;
      }
    }
  }
}

TEST(FewRows, ARowsResultDependsOnNothingElse) {
  at::manual_seed(3);
  for (const at::ScalarType dtype : kDtypes) {
    const at::Tensor x = at::randn({16, 200}).to(dtype);
    const at::Tensor weight = at::randn({1001, 200}).to(dtype);
    const at::Tensor v = at::randn({16, 16});
    const at::Tensor b = at::randn({1001, 16});
    const at::Tensor together = few_rows_product(x, weight, {}, v, b, at::kFloat);
    for (const int count : {1, 2, 3}) {
      const testing::WithThreads with(count);
      for (const std::int64_t rows : {1, 2, 3, 7, 8, 9, 16}) {
        const at::Tensor some = few_rows_product(x.narrow(0, 0, rows), weight, {}, v.narrow(0, 0, rows), b, at::kFloat);
        EXPECT_TRUE(at::equal(some, together.narrow(0, 0, rows))) << dtype << " " << count << " threads, " << rows;
      }
      const at::Tensor last = few_rows_product(x.narrow(0, 15, 1), weight, {}, v.narrow(0, 15, 1), b, at::kFloat);
      EXPECT_TRUE(at::equal(last, together.narrow(0, 15, 1)));
    }
  }
}

// Every instruction set that this processor has, also those that the program would not choose here.
TEST(FewRows, InstructionSetsAgree) {
  at::manual_seed(4);
  for (const at::ScalarType dtype : kDtypes) {
    const at::Tensor x = at::randn({9, 75});
    // Zeros, subnormals and both signs are among the weights.
    at::Tensor weight = at::randn({21, 75});
    weight.narrow(1, 0, 20).mul_(1e-6);
    weight.narrow(1, 20, 5).zero_();
    weight = weight.to(dtype);
    const at::Tensor q = at::randn({75});
    for (const kernels::CpuKernels* set : kernels::available_cpu_kernels()) {
      at::Tensor y = at::empty({9, 21});
      const kernels::FewRows call{x.const_data_ptr<float>(),
                                  weight.const_data_ptr(),
                                  kernels::stored(dtype),
                                  nullptr,
                                  nullptr,
                                  nullptr,
                                  y.mutable_data_ptr<float>(),
                                  9,
                                  75,
                                  21,
                                  0,
                                  0,
                                  nullptr};
      set->few_rows(call, 0, 10);
      set->few_rows(call, 10, 21);
      EXPECT_LT(rounding_of(y, x, weight, {}, {}, {}), 1e-6) << set->name << " " << dtype;

      at::Tensor out = at::empty({75});
      std::vector<float> scratch(32);
      const kernels::OneRowAttention attention{q.const_data_ptr<float>(),
                                               weight.const_data_ptr(),
                                               weight.const_data_ptr(),
                                               kernels::stored(dtype),
                                               out.mutable_data_ptr<float>(),
                                               scratch.data(),
                                               21,
                                               75,
                                               0.1f};
      set->attend(attention);
      const at::Tensor wide = weight.to(at::kDouble);
      const at::Tensor expected = at::mv(wide.t(), at::softmax(at::mv(wide, q.to(at::kDouble)) * 0.1, 0));
      EXPECT_LT((out.to(at::kDouble) - expected).abs().max().item<double>(), 1e-6) << set->name << " " << dtype;
    }
  }
}

TEST(FewRows, ServesOnlyWhatItCan) {
  const at::Tensor weight = at::randn({8, 4});
  EXPECT_TRUE(supports_few_rows(at::randn({1, 4}), weight));
  EXPECT_FALSE(supports_few_rows(at::randn({0, 4}), weight));
  EXPECT_FALSE(supports_few_rows(at::randn({1000, 4}), weight));
  EXPECT_FALSE(supports_few_rows(at::randn({1, 1, 4}), weight));
  EXPECT_FALSE(supports_few_rows(at::randn({1, 4}), at::randn({4, 8}).t()));
  EXPECT_FALSE(supports_few_rows(at::randn({1, 4}, at::kDouble), weight.to(at::kDouble)));
  const at::Tensor wanted = at::randn({1, 4}).requires_grad_();
  EXPECT_FALSE(supports_few_rows(wanted, weight));
  EXPECT_FALSE(supports_few_rows(wanted.detach(), weight, at::zeros({8}).requires_grad_()));
  const at::NoGradGuard guard;
  EXPECT_TRUE(supports_few_rows(wanted, weight));
}

TEST(FrozenWeight, KeepsGradientsWhateverTheNumberOfRows) {
  at::manual_seed(5);
  const at::Tensor weight = at::randn({8, 4});
  const at::Tensor bias = at::randn({8}).requires_grad_();
  const at::Tensor x = at::randn({2, 4}).requires_grad_();
  FrozenWeight(weight).infer(x, bias).sum().backward();
  EXPECT_TRUE(at::allclose(x.grad(), weight.sum(0).expand({2, 4})));
  EXPECT_TRUE(at::allclose(bias.grad(), at::full({8}, 2.0)));
}

}  // namespace
}  // namespace moelora::nn
