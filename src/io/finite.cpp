#include "moelora/io/finite.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

namespace moelora::io {

bool all_finite(const at::Tensor& values) {
  if (!values.is_floating_point() || values.numel() == 0) {
    return true;
  }
  at::NoGradGuard no_grad;
  // A sum is not finite if a summand is not. The reverse needs a look at each: finite values can overflow it.
  return std::isfinite(values.sum().item<double>()) || at::isfinite(values).all().item<bool>();
}

bool all_finite(const std::vector<at::Tensor>& tensors) {
  at::NoGradGuard no_grad;
  at::Tensor sum;  // of all that lie on the device met first
  const auto joins = [&](const at::Tensor& values) {
    return !values.is_cpu() && values.is_floating_point() && values.numel() > 0 &&
           (!sum.defined() || values.device() == sum.device());
  };
  for (const at::Tensor& values : tensors) {
    if (joins(values)) {
      const at::Tensor own = values.sum(at::kFloat);
      sum = sum.defined() ? sum.add_(own) : own;
    }
  }
  const bool joined_are_finite = !sum.defined() || std::isfinite(sum.item<double>());
  return std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& values) {
    return (joined_are_finite && joins(values)) || all_finite(values);
  });
}

std::int64_t count_not_finite(const at::Tensor& values) {
  return all_finite(values) ? 0 : values.numel() - at::isfinite(values).sum().item<std::int64_t>();
}

std::string describe_not_finite(const at::Tensor& values) {
  const std::int64_t count = count_not_finite(values);
  if (count == 0) {
    return {};
  }
  const at::Tensor flat = values.detach().reshape({-1});
  std::int64_t index = at::isfinite(flat).logical_not().to(at::kByte).argmax().item<std::int64_t>();
  const double value = flat[index].item<double>();
  std::string place;
  for (std::int64_t axis = values.dim() - 1; axis >= 0; --axis) {
    place = std::to_string(index % values.size(axis)) + (place.empty() ? "" : ", ") + place;
    index /= values.size(axis);
  }
  return detail::concat(count, " of ", values.numel(), count == 1 ? " values is" : " values are",
                        " not finite, the first is ",
                        std::isnan(value) ? "NaN"
                        : value > 0       ? "Inf"
                                          : "-Inf",
                        " at [", place, "]");
}

}  // namespace moelora::io
