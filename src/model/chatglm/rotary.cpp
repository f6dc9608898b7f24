#include "moelora/model/chatglm/rotary.h"

namespace moelora::model {
namespace {

// bf16 keeps 8 bits: angles of large positions would be noise, so it computes them in fp32 (as the reference does).
at::ScalarType angle_dtype(at::ScalarType dtype) { return dtype == at::kHalf ? at::kHalf : at::kFloat; }

}  // namespace

at::Tensor chatglm_frequencies(std::int64_t half, at::Device device) {
  return nn::rotary_frequencies(half, 10000.0, device).to(at::kHalf).to(at::kFloat);
}

nn::RotaryTables chatglm_rotary_axis(const at::Tensor& positions, std::int64_t half, at::ScalarType dtype) {
  return nn::make_rotary(positions.unsqueeze(0), chatglm_frequencies(half, positions.device()), nn::RotaryPairing::half,
                         dtype, angle_dtype(dtype))
      .tables;
}

nn::Rotary chatglm_rotary(const at::Tensor& positions, std::int64_t head_dim, at::ScalarType dtype) {
  return nn::make_rotary(positions, chatglm_frequencies(head_dim / 2, positions.device()), nn::RotaryPairing::two_axes,
                         dtype, angle_dtype(dtype));
}

}  // namespace moelora::model
