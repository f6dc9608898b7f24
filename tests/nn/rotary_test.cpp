#include "moelora/nn/rotary.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace moelora::nn {
namespace {

constexpr std::int64_t kRows = 5;
constexpr std::int64_t kHeads = 3;

std::int64_t axes(RotaryPairing pairing) { return pairing == RotaryPairing::two_axes ? 2 : 1; }

at::Tensor positions_for(RotaryPairing pairing) { return at::randint(0, 300, {axes(pairing), kRows}, at::kLong); }

Rotary rotary_for(RotaryPairing pairing, const at::Tensor& positions, std::int64_t d,
                  at::ScalarType dtype = at::kFloat) {
  return make_rotary(positions, rotary_frequencies(d / axes(pairing), 500.0), pairing, dtype);
}

// Pair by pair, in double: the columns of pair p and its frequency as the definitions have them.
at::Tensor plainly(const at::Tensor& x, RotaryPairing pairing, const at::Tensor& positions, std::int64_t d) {
  at::Tensor y = x.to(at::kDouble).clone();
  for (std::int64_t row = 0; row < x.size(0); ++row) {
    for (std::int64_t head = 0; head < x.size(1); ++head) {
      for (std::int64_t p = 0; p < d / 2; ++p) {
        std::int64_t first = p, second = p + d / 2, axis = 0, of_axis = p;
        if (pairing == RotaryPairing::interleaved) {
          first = 2 * p;
          second = 2 * p + 1;
        } else if (pairing == RotaryPairing::two_axes) {
          axis = p / (d / 4);
          of_axis = p % (d / 4);
          first = axis * (d / 2) + of_axis;
          second = first + d / 4;
        }
        const double width = static_cast<double>(d / axes(pairing));
        const double angle = positions[axis][row].item<double>() * std::pow(500.0, -2.0 * of_axis / width);
        const double a = x[row][head][first].item<double>();
        const double b = x[row][head][second].item<double>();
        y[row][head][first] = a * std::cos(angle) - b * std::sin(angle);
        y[row][head][second] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }
  return y;
}

class EveryPairing : public ::testing::TestWithParam<RotaryPairing> {
 protected:
  void SetUp() override { at::manual_seed(4); }
};

TEST_P(EveryPairing, TurnsEachPairAsItsDefinitionSays) {
  const at::Tensor positions = positions_for(GetParam());
  for (const std::int64_t d : {8, 16}) {  // of 16 columns: a part of the head, and all of it
    const Rotary rotary = rotary_for(GetParam(), positions, d);
    ASSERT_EQ(rotary.rotary_dim(), d);
    const at::Tensor x = at::randn({kRows, kHeads, 16});
    const at::Tensor expected = plainly(x, GetParam(), positions, d);
    const auto error = [&](const at::Tensor& found) {
      return (found.to(at::kDouble) - expected).abs().max().item<double>();
    };
    EXPECT_LE(error(apply_rotary(x, rotary)), 1e-4) << d;
    EXPECT_TRUE(at::equal(rotated_in_float(x, rotary), apply_rotary(x, rotary))) << d;
    at::Tensor y = x.clone();
    rotate_in_place(y, rotary);
    EXPECT_LE(error(y), 1e-4) << d;
    rotate_in_place(y, rotary, /*inverse=*/true);
    EXPECT_TRUE(at::allclose(y, x, 1e-5, 1e-5)) << d;
    EXPECT_TRUE(at::equal(apply_rotary(x, rotary).narrow(2, d, 16 - d), x.narrow(2, d, 16 - d)));
  }
}

TEST_P(EveryPairing, ViewsAndOtherTypesTurnAlike) {
  const at::Tensor positions = positions_for(GetParam());
  const at::Tensor mixed = at::randn({kRows, kHeads, 3 * 16});
  const at::Tensor x = mixed.narrow(2, 16, 16);
  const Rotary rotary = rotary_for(GetParam(), positions, 8);
  EXPECT_TRUE(at::equal(rotated_in_float(x, rotary), apply_rotary(x, rotary)));
  at::Tensor in_place = mixed.clone();
  rotate_in_place(in_place.narrow(2, 16, 16), rotary);
  EXPECT_TRUE(at::allclose(in_place.narrow(2, 16, 16), apply_rotary(x, rotary), 1e-5, 1e-6));
  EXPECT_TRUE(at::equal(in_place.narrow(2, 0, 16), mixed.narrow(2, 0, 16)));
  const Rotary half = rotary_for(GetParam(), positions, 8, at::kHalf);
  const at::Tensor x_half = x.to(at::kHalf);
  const at::Tensor unrounded = rotated_in_float(x_half, half);
  EXPECT_EQ(unrounded.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::equal(unrounded, apply_rotary(x_half.to(at::kFloat), half.to(at::kFloat))));
  at::Tensor half_in_place = x_half.clone();
  rotate_in_place(half_in_place, half);
  EXPECT_TRUE(at::equal(half_in_place, apply_rotary(x_half, half)));
}

TEST_P(EveryPairing, TheInverseIsTheGradient) {
  const Rotary rotary = rotary_for(GetParam(), positions_for(GetParam()), 8);
  const at::Tensor x = at::randn({kRows, kHeads, 12}).requires_grad_();
  const at::Tensor dy = at::randn({kRows, kHeads, 12});
  apply_rotary(x, rotary).backward(dy);
  at::Tensor turned_back = dy.clone();
  rotate_in_place(turned_back, rotary, /*inverse=*/true);
  EXPECT_TRUE(at::allclose(x.grad(), turned_back, 1e-5, 1e-6));
}

TEST_P(EveryPairing, PreservesLengthsAndDependsOnDistancesOnly) {
  const at::Tensor q = at::randn({1, 2, 16});
  const at::Tensor k = at::randn({1, 2, 16});
  const auto at_position = [](const at::Tensor& x, std::int64_t a, std::int64_t b) {
    const at::Tensor both = at::tensor({a, b}, at::kLong).view({2, 1});
    return apply_rotary(x, rotary_for(GetParam(), both.narrow(0, 0, axes(GetParam())), 16));
  };
  EXPECT_NEAR(at_position(q, 5, 9).norm().item<float>(), q.norm().item<float>(), 1e-4);
  const float near = (at_position(q, 3, 4) * at_position(k, 1, 1)).sum().item<float>();
  const float far = (at_position(q, 103, 54) * at_position(k, 101, 51)).sum().item<float>();
  EXPECT_NEAR(near, far, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Rotary, EveryPairing,
                         ::testing::Values(RotaryPairing::half, RotaryPairing::interleaved, RotaryPairing::two_axes));

TEST(Rotary, AnglesAreComputedInTheTypeThatIsAskedFor) {
  const at::Tensor positions = at::tensor({1999}, at::kLong).view({1, 1});
  const at::Tensor frequencies = rotary_frequencies(8).to(at::kHalf).to(at::kFloat);
  const auto cos = [&](at::ScalarType angles) {
    return make_rotary(positions, frequencies, RotaryPairing::half, at::kHalf, angles).tables.cos;
  };
  EXPECT_FALSE(at::equal(cos(at::kHalf), cos(at::kFloat)));
}

}  // namespace
}  // namespace moelora::nn
