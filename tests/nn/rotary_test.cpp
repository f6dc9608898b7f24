#include "moelora/nn/rotary.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/io/safetensors.h"
#include "support/shared.h"

namespace moelora::nn {
namespace {

TEST(Rotary, TablesOfTheRealHeadEqualTheReference) {
  const auto golden = io::load_safetensors(testing::fixtures() / "chatglm-tiny" / "rotary_dim64.safetensors");
  const at::Tensor positions = golden.at("positions");
  const RotaryTables single = rotary_axis(positions, 64, at::kFloat);
  EXPECT_LE((single.cos - golden.at("cos_fp32")).abs().max().item<float>(), 1e-6);
  EXPECT_LE((single.sin - golden.at("sin_fp32")).abs().max().item<float>(), 1e-6);
  const RotaryTables half = rotary_axis(positions, 64, at::kHalf);
  EXPECT_TRUE(at::equal(half.cos, golden.at("cos_fp16")));
  EXPECT_TRUE(at::equal(half.sin, golden.at("sin_fp16")));
}

TEST(Rotary, PreservesLengthsAndDependsOnDistancesOnly) {
  const at::Tensor q = at::randn({1, 2, 16});
  const at::Tensor k = at::randn({1, 2, 16});
  const auto at_position = [](const at::Tensor& x, std::int64_t a, std::int64_t b) {
    at::Tensor positions = at::empty({2, 1}, at::kLong);
    positions[0][0] = a;
    positions[1][0] = b;
    return apply_rotary(x, rotary_tables(positions, 16, at::kFloat));
  };
  EXPECT_NEAR(at_position(q, 5, 9).norm().item<float>(), q.norm().item<float>(), 1e-4);
  const float near = (at_position(q, 3, 4) * at_position(k, 1, 1)).sum().item<float>();
  const float far = (at_position(q, 103, 54) * at_position(k, 101, 51)).sum().item<float>();
  EXPECT_NEAR(near, far, 1e-3);
}

}  // namespace
}  // namespace moelora::nn
