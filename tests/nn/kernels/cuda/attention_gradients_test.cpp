#include "nn/kernels/cuda/attention_gradients.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/kernels/cuda/rounding.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

constexpr std::int64_t kJoinedRows = 7, kCausalRows = 3, kHeads = 4;

class DeviceAttentionGradients : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  kernels::HeadGradients random(std::int64_t queries, std::int64_t width) const {
    const auto of = [&](std::int64_t rows) { return at::randn({rows, kHeads, width}).to(GetParam()); };
    return {of(queries), of(kJoinedRows), of(kJoinedRows)};
  }
  const testing::HostKernels kernels_;
};

at::Tensor sum_of_sharing(const at::Tensor& x, std::int64_t kv_heads) {
  return x.to(at::kDouble).view({x.size(0), kv_heads, kHeads / kv_heads, x.size(2)}).sum(2);
}

TEST_P(DeviceAttentionGradients, TakesEachRowFromTheCallsThatItWasIn) {
  const at::Tensor rows = at::tensor({2, 3, 6}, at::kLong);
  const at::Tensor causal_of_row = at::tensor({-1, -1, 0, 1, -1, -1, 2}, at::kInt);
  for (const std::int64_t width : {3, 8, 64}) {
    for (const std::int64_t kv_heads : {4, 2, 1}) {
      kernels::HeadGradients parts = random(kJoinedRows, width);
      const kernels::HeadGradients causal = random(kCausalRows, width);
      const auto expected = [&](const at::Tensor& part, const at::Tensor& whole) {
        return sum_of_sharing(part, kv_heads).index_fill(0, rows, 0.0) + sum_of_sharing(whole, kv_heads);
      };
      const at::Tensor dq = parts.dq.index_copy(0, rows, causal.dq);
      const at::Tensor dk = expected(parts.dk, causal.dk), dv = expected(parts.dv, causal.dv);
      for (at::Tensor* x : {&parts.dq, &parts.dk, &parts.dv}) {  // never read
        x->index_fill_(0, rows, std::numeric_limits<double>::quiet_NaN());
      }
      const at::Tensor packed = at::zeros({kJoinedRows, kHeads + 2 * kv_heads, width}, parts.dq.options());
      const at::Tensor found_q = packed.narrow(1, 0, kHeads);
      const at::Tensor found_k = packed.narrow(1, kHeads, kv_heads);
      const at::Tensor found_v = packed.narrow(1, kHeads + kv_heads, kv_heads);
      kernels::join_gradients(parts, causal, causal_of_row, found_q, found_k, found_v);
      EXPECT_TRUE(at::equal(found_q, dq)) << width;
      EXPECT_TRUE(testing::rounds_to(found_k, dk)) << width << ' ' << kv_heads;
      EXPECT_TRUE(testing::rounds_to(found_v, dv)) << width << ' ' << kv_heads;
    }
  }
}

TEST_P(DeviceAttentionGradients, TakeOneCallAlone) {
  const kernels::HeadGradients all = random(kJoinedRows, 8);
  const at::Tensor dq = at::empty_like(all.dq), dk = at::empty_like(all.dk), dv = at::empty_like(all.dv);
  for (const bool causal : {false, true}) {
    const at::Tensor of_row = causal ? at::arange(kJoinedRows, at::kInt) : at::full({kJoinedRows}, -1, at::kInt);
    kernels::join_gradients(causal ? kernels::HeadGradients{} : all, causal ? all : kernels::HeadGradients{}, of_row,
                            dq, dk, dv);
    EXPECT_TRUE(at::equal(dq, all.dq) && at::equal(dk, all.dk) && at::equal(dv, all.dv));
    dq.zero_(), dk.zero_(), dv.zero_();
  }
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceAttentionGradients, testing::kernel_types(), testing::type_name);

}  // namespace
}  // namespace moelora::nn
