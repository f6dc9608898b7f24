#pragma once
// Comparison of a kernel that computes in fp32 and rounds once with a reference in fp64.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

namespace moelora::testing {

/// Half a unit in the last place of a type, and a little for the sums of fp32, relative to the larger of 1 and a value.
inline double rounding_of(at::ScalarType type) {
  return type == at::kHalf ? 6e-4 : type == at::kBFloat16 ? 5e-3 : 3e-6;
}

inline at::Tensor exact(const at::Tensor& x) { return x.to(at::kDouble); }

inline ::testing::AssertionResult rounds_to(const at::Tensor& found, const at::Tensor& exact) {
  const at::Tensor expected = exact.to(at::kDouble);
  const at::Tensor off = (found.to(at::kDouble) - expected).abs() / expected.abs().clamp_min(1.0);
  const double worst = found.numel() == 0 ? 0.0 : off.max().item<double>();
  if (found.sizes() == exact.sizes() && worst <= rounding_of(found.scalar_type())) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "off by " << worst << " of " << c10::toString(found.scalar_type())
                                       << ", shapes " << found.sizes() << " and " << exact.sizes();
}

inline std::string type_name(const ::testing::TestParamInfo<at::ScalarType>& info) { return c10::toString(info.param); }
inline auto kernel_types() { return ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16); }

}  // namespace moelora::testing
