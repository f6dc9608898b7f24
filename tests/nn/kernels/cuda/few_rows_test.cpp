#include "nn/kernels/cuda/few_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "moelora/nn/few_rows.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

class DeviceFewRows : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  const testing::HostKernels kernels_;
};

// Rows of several tasks in one batch; widths and ranks that are read by packs and that are not.
TEST_P(DeviceFewRows, AddTheLowRankPart) {
  at::manual_seed(1);
  const double tolerance = GetParam() == at::kFloat ? 1e-5 : GetParam() == at::kHalf ? 4e-3 : 3e-2;
  for (const auto& [d_in, d_out, rank, experts] :
       {std::tuple{64, 200, 8, 4}, {1030, 130, 4, 1}, {37, 5, 6, 3}, {16, 20, 512, 4}}) {
    for (const std::int64_t rows : rank == 512 ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{1, 8, 11}) {
      const at::Tensor x = at::randn({rows, d_in}).to(GetParam());
      const at::Tensor A = at::randn({rank, d_in}) * 0.1, B = at::randn({d_out, rank}) * 0.1;
      const at::Tensor gates = at::rand({2, 3, experts});
      const at::Tensor omega = experts == 1 ? at::Tensor() : gates[1];  // one gate's, as a view
      const at::Tensor of_row = at::randint(3, {rows}, at::kLong);
      at::Tensor y = at::randn({rows, d_out}).to(GetParam());
      at::Tensor g = at::ones({rows, rank});
      if (omega.defined()) {
        g = omega.index_select(0, of_row).repeat_interleave(rank / experts, 1);
      }
      const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
      const at::Tensor expected = wide(y) + at::mm(at::mm(wide(x), wide(A).t()) * wide(g) * 0.75, wide(B).t());
      kernels::add_few_rows(y, kernels::few_rows_down(x, A, omega, of_row, 0.75), B);
      EXPECT_TRUE(at::allclose(wide(y), expected, tolerance, tolerance))
          << rows << " rows, " << d_in << " → " << d_out << ", rank " << rank;
    }
  }
}

// The product with the low-rank part beside it, against the CPU's kernel, which sums in fp32 too; columns and widths
// that fill neither warps nor packs.
TEST_P(DeviceFewRows, ProductEqualsTheCpus) {
  at::manual_seed(3);
  const double tolerance = GetParam() == at::kFloat ? 1e-5 : GetParam() == at::kHalf ? 2e-3 : 1e-2;
  for (const auto& [d_in, d_out, rank] : {std::tuple{64, 19, 0}, {264, 8, 5}, {77, 16, 16}, {8, 1, 3}}) {
    for (const std::int64_t rows : {1, 5, 8, 10}) {
      const at::Tensor x = at::randn({rows, d_in}).to(GetParam());
      const at::Tensor weight = (at::randn({d_out, d_in}) * 0.2).to(GetParam());
      const at::Tensor bias = rows == 5 ? at::Tensor() : at::randn({d_out}).to(GetParam());
      const at::Tensor v = rank == 0 ? at::Tensor() : at::randn({rows, rank});
      const at::Tensor b = rank == 0 ? at::Tensor() : at::randn({d_out, rank}) * 0.1;
      const at::Tensor expected = few_rows_product(x, weight, bias, v, b);
      const at::Tensor found = kernels::few_rows_product(x, weight, bias, v, b);
      EXPECT_EQ(found.scalar_type(), GetParam());
      EXPECT_TRUE(at::allclose(found.to(at::kFloat), expected.to(at::kFloat), tolerance, tolerance))
          << rows << " rows, " << d_in << " → " << d_out << ", rank " << rank;
    }
  }
}

// A row's bits do not depend on the rows beside it.
TEST_P(DeviceFewRows, ARowsResultDependsOnNothingElse) {
  at::manual_seed(2);
  const at::Tensor x = at::randn({9, 48}).to(GetParam()), weight = at::randn({33, 48}).to(GetParam());
  const at::Tensor A = at::randn({4, 48}), B = at::randn({33, 4}), omega = at::rand({9, 2});
  const at::Tensor of_row = at::arange(9);
  const auto adapted = [&](std::int64_t first, std::int64_t count) {
    const at::Tensor some = x.narrow(0, first, count);
    return kernels::few_rows_product(some, weight, {},
                                     kernels::few_rows_down(some, A, omega, of_row.narrow(0, first, count), 2.0), B);
  };
  const at::Tensor together = adapted(0, 9);
  for (std::int64_t row = 0; row < 9; ++row) {
    EXPECT_TRUE(at::equal(adapted(row, 1)[0], together[row])) << row;
  }
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceFewRows, ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

TEST(TakesFewRows, IsOfDevicesWithKernels) {
  const testing::HostKernels host;  // the CPU has kernels of its own
  EXPECT_FALSE(kernels::takes_few_rows(at::zeros({1, 4}), 2));
  EXPECT_FALSE(kernels::takes_few_rows_product(at::zeros({1, 4}), at::zeros({3, 4})));
}

}  // namespace
}  // namespace moelora::nn
