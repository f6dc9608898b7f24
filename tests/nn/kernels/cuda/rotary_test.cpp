#include "nn/kernels/cuda/rotary.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/kernels/cuda/rounding.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

class DeviceRotary : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  Rotary rotary(RotaryPairing pairing, std::int64_t dim) const {
    const bool two_axes = pairing == RotaryPairing::two_axes;
    const at::Tensor positions = at::randint(0, 500, {two_axes ? 2 : 1, kRows}, at::kLong);
    return make_rotary(positions, rotary_frequencies(two_axes ? dim / 2 : dim), pairing, GetParam());
  }
  static Rotary exact(const Rotary& rotary) { return rotary.to(at::kDouble); }

  static constexpr std::int64_t kRows = 5;
  const testing::HostKernels kernels_;
};

constexpr RotaryPairing kPairings[] = {RotaryPairing::half, RotaryPairing::interleaved, RotaryPairing::two_axes};

// q and k where the packed q, k, v have them, of as many and of fewer heads; v stays.
TEST_P(DeviceRotary, TurnsPackedQueriesAndKeys) {
  for (const RotaryPairing pairing : kPairings) {
    for (const std::int64_t d : {4, 12, 16, 64}) {
      const Rotary turn = rotary(pairing, d);
      const at::Tensor qkv = at::randn({kRows, 3, 3 * d}).to(GetParam());
      const at::Tensor before = qkv.to(at::kDouble);
      kernels::rotate_rows(qkv.narrow(2, 0, d), qkv.narrow(2, d, d), turn, /*inverse=*/false);
      EXPECT_TRUE(testing::rounds_to(qkv.narrow(2, 0, d), apply_rotary(before.narrow(2, 0, d), exact(turn))));
      EXPECT_TRUE(testing::rounds_to(qkv.narrow(2, d, d), apply_rotary(before.narrow(2, d, d), exact(turn))));
      EXPECT_TRUE(at::equal(qkv.narrow(2, 2 * d, d).to(at::kDouble), before.narrow(2, 2 * d, d))) << d;
    }
  }
}

TEST_P(DeviceRotary, TurnsAPartOfAHeadAndFewerKeyHeads) {
  for (const RotaryPairing pairing : kPairings) {
    const Rotary turn = rotary(pairing, 8);
    const at::Tensor q = at::randn({kRows, 6, 12}).to(GetParam());
    const at::Tensor k = at::randn({kRows, 2, 12}).to(GetParam());
    const at::Tensor expected_q = apply_rotary(q.to(at::kDouble), exact(turn));
    const at::Tensor expected_k = apply_rotary(k.to(at::kDouble), exact(turn));
    kernels::rotate_rows(q, k, turn, /*inverse=*/false);
    EXPECT_TRUE(testing::rounds_to(q, expected_q));
    EXPECT_TRUE(testing::rounds_to(k, expected_k));
  }
}

TEST_P(DeviceRotary, TurnsBack) {
  for (const RotaryPairing pairing : kPairings) {
    const Rotary turn = rotary(pairing, 16);
    const at::Tensor x = at::randn({kRows, 2, 16}).to(GetParam());
    const Rotary back{{turn.tables.cos, -turn.tables.sin}, pairing};
    const at::Tensor expected = apply_rotary(x.to(at::kDouble), exact(back));
    kernels::rotate_rows(x, {}, turn, /*inverse=*/true);
    EXPECT_TRUE(testing::rounds_to(x, expected));
  }
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceRotary, testing::kernel_types(), testing::type_name);

}  // namespace
}  // namespace moelora::nn
