#include "nn/kernels/cuda/gelu.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/kernels/cuda/rounding.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

class DeviceGelu : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  at::Tensor random(std::int64_t count) const { return (4.0 * at::randn({count})).to(GetParam()); }
  const testing::HostKernels kernels_;
};

const std::int64_t kCounts[] = {1, 7, 256, 1028, 5003};

TEST_P(DeviceGelu, EqualsLibTorchs) {
  for (const std::int64_t count : kCounts) {
    const at::Tensor x = random(count);
    const at::Tensor dy = random(count);
    const at::Tensor expected = at::gelu_backward(testing::exact(dy), testing::exact(x), "tanh");
    EXPECT_TRUE(testing::rounds_to(kernels::gelu_on_device(x), at::gelu(testing::exact(x), "tanh"))) << count;
    kernels::gelu_backward_on_device_(dy, x);
    EXPECT_TRUE(testing::rounds_to(dy, expected)) << count;
  }
}

TEST_P(DeviceGelu, IsFiniteFarOut) {
  const at::Tensor x = at::tensor({-60000.0, -50.0, 0.0, 50.0, 60000.0}).to(GetParam());
  const at::Tensor dy = at::ones_like(x);
  EXPECT_TRUE(testing::rounds_to(kernels::gelu_on_device(x), testing::exact(x).clamp_min(0.0)));
  kernels::gelu_backward_on_device_(dy, x);
  EXPECT_TRUE(at::equal(testing::exact(dy), at::tensor({0.0, 0.0, 0.5, 1.0, 1.0}, at::kDouble)));
}

TEST_P(DeviceGelu, SwiGluEqualsItsDefinition) {
  for (const std::int64_t width : kCounts) {
    for (const bool fused : {false, true}) {
      const auto rows = [&] {
        return fused ? random(6 * width).view({3, 2 * width}) : random(3 * width).view({3, width});
      };
      const at::Tensor gate_up = rows(), dgate_up = at::zeros_like(gate_up), other = rows(), dother = rows();
      const at::Tensor gate = gate_up.narrow(1, 0, width), dgate = dgate_up.narrow(1, 0, width);
      const at::Tensor up = fused ? gate_up.narrow(1, width, width) : other;
      const at::Tensor dup = fused ? dgate_up.narrow(1, width, width) : dother;
      const at::Tensor dy = random(3 * width).view({3, width});
      const at::Tensor expected = at::silu(testing::exact(gate)) * testing::exact(up);
      const at::Tensor expected_gate = at::silu_backward(testing::exact(dy) * testing::exact(up), testing::exact(gate));
      const at::Tensor expected_up = testing::exact(dy) * at::silu(testing::exact(gate));
      EXPECT_TRUE(testing::rounds_to(kernels::swiglu_on_device(gate, up), expected)) << width << ' ' << fused;
      kernels::swiglu_backward_on_device(dy, gate, up, dgate, dup);
      EXPECT_TRUE(testing::rounds_to(dgate, expected_gate)) << width << ' ' << fused;
      EXPECT_TRUE(testing::rounds_to(dup, expected_up)) << width << ' ' << fused;
      kernels::swiglu_backward_on_device(dy, gate, up, dgate, dy);
      EXPECT_TRUE(at::equal(dy, dup)) << width << ' ' << fused;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceGelu, testing::kernel_types(), testing::type_name);

}  // namespace
}  // namespace moelora::nn
