// LibTorch's norm as CUDA's kernels compute it: in fp32, with mean and reciprocal deviation in fp32, where the CPU's
// keep them in the input's type.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "support/pretend_device/fallback.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::testing::pretend {
namespace {

using at::Tensor;
using std::optional;

Tensor in_fp32(const Tensor& x) { return on_host(x).to(at::kFloat); }

optional<Tensor> in_fp32(const optional<Tensor>& x) { return x && x->defined() ? optional(in_fp32(*x)) : x; }

/// On the device, rounded to `type`.
Tensor on_device_as(const Tensor& x, at::ScalarType type) {
  if (!x.defined()) {
    return x;
  }
  const Tensor to = at::empty(x.sizes(), x.options().device(at::kPrivateUse1).dtype(type));
  on_host(to).copy_(x);
  return to;
}

std::tuple<Tensor, Tensor, Tensor> norm_forward(const Tensor& x, at::IntArrayRef shape, const optional<Tensor>& weight,
                                                const optional<Tensor>& bias, double epsilon) {
  const Launch launch("aten::native_layer_norm");
  const auto [y, mean, rstd] = at::native_layer_norm(in_fp32(x), shape, in_fp32(weight), in_fp32(bias), epsilon);
  return {on_device_as(y, x.scalar_type()), on_device_as(mean, at::kFloat), on_device_as(rstd, at::kFloat)};
}

std::tuple<Tensor, Tensor, Tensor> norm_backward(const Tensor& dy, const Tensor& x, at::IntArrayRef shape,
                                                 const Tensor& mean, const Tensor& rstd, const optional<Tensor>& weight,
                                                 const optional<Tensor>& bias, std::array<bool, 3> wanted) {
  TORCH_CHECK(mean.scalar_type() == at::kFloat && rstd.scalar_type() == at::kFloat, "mean and rstd must be fp32");
  const Launch launch("aten::native_layer_norm_backward");
  const auto [dx, dweight, dbias] = at::native_layer_norm_backward(
      in_fp32(dy), in_fp32(x), shape, on_host(mean), on_host(rstd), in_fp32(weight), in_fp32(bias), wanted);
  return {on_device_as(dx, x.scalar_type()), on_device_as(dweight, x.scalar_type()),
          on_device_as(dbias, x.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("native_layer_norm", norm_forward);
  m.impl("native_layer_norm_backward", norm_backward);
}

}  // namespace moelora::testing::pretend
