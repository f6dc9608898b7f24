#include "moelora/model/chatglm/rotary.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/io/safetensors.h"
#include "support/shared.h"

namespace moelora::model {
namespace {

TEST(ChatGlmRotary, TablesOfTheRealHeadEqualTheReference) {
  const auto golden = io::load_safetensors(testing::fixtures() / "chatglm-tiny" / "rotary_dim64.safetensors");
  const at::Tensor positions = golden.at("positions");
  const nn::RotaryTables single = chatglm_rotary_axis(positions, 64, at::kFloat);
  EXPECT_LE((single.cos - golden.at("cos_fp32")).abs().max().item<float>(), 1e-6);
  EXPECT_LE((single.sin - golden.at("sin_fp32")).abs().max().item<float>(), 1e-6);
  const nn::RotaryTables half = chatglm_rotary_axis(positions, 64, at::kHalf);
  EXPECT_TRUE(at::equal(half.cos, golden.at("cos_fp16")));
  EXPECT_TRUE(at::equal(half.sin, golden.at("sin_fp16")));
}

TEST(ChatGlmRotary, EachHalfOfAHeadTurnsByItsOwnPosition) {
  const at::Tensor positions = at::tensor({5, 9, 2, 7}, at::kLong).view({2, 2});
  const nn::Rotary rotary = chatglm_rotary(positions, 16, at::kFloat);
  EXPECT_EQ(rotary.pairing, nn::RotaryPairing::two_axes);
  EXPECT_TRUE(at::equal(rotary.tables.cos.narrow(1, 0, 8), chatglm_rotary_axis(positions[0], 8, at::kFloat).cos));
  EXPECT_TRUE(at::equal(rotary.tables.sin.narrow(1, 8, 8), chatglm_rotary_axis(positions[1], 8, at::kFloat).sin));
}

}  // namespace
}  // namespace moelora::model
