#include "adapter/merge/fold_weight.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "nn/kernels/cuda/fold.h"

namespace moelora {
namespace {

using nn::kernels::FoldExtremes;

/// out = round(source + B A) for some rows, on any device; source may be out itself.
FoldExtremes fold_tensors(at::Tensor out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                          bool measure) {
  FoldExtremes extremes;
  if (out.scalar_type() == at::kHalf || out.scalar_type() == at::kBFloat16) {
    const at::Tensor update = at::mm(B, A);
    const at::Tensor sum = source.to(at::kFloat).add_(update);
    out.copy_(sum);
    if (measure) {
      extremes = {largest_magnitude(out.to(at::kFloat).sub_(sum)), largest_magnitude(update)};
    }
    return extremes;
  }
  at::Tensor sum;
  if (measure) {
    const at::Tensor update = at::mm(B.to(at::kDouble), A.to(at::kDouble));
    extremes.update = largest_magnitude(update);
    sum = update.add_(source);
  }
  const at::Tensor left = B.to(out.scalar_type());
  const at::Tensor right = A.to(out.scalar_type());
  if (out.is_same(source) || out.data_ptr() == source.data_ptr()) {
    out.addmm_(left, right);
  } else {
    at::addmm_out(out, source, left, right);
  }
  if (measure) {
    extremes.rounding = largest_magnitude(sum.sub_(out));
  }
  return extremes;
}

}  // namespace

double largest_magnitude(const at::Tensor& values) {
  const auto [low, high] = at::aminmax(values);
  return std::max(-low.item<double>(), high.item<double>());
}

void FoldedExtremes::add_on_device(at::Tensor extremes) {
  waiting_.push_back(places_.size());
  places_.emplace_back();
  on_device_.push_back(std::move(extremes));
}

std::vector<nn::kernels::FoldExtremes> FoldedExtremes::read() const {
  std::vector<nn::kernels::FoldExtremes> all = places_;
  // A model lies on one device, as a rule.
  for (std::size_t first = 0; first < waiting_.size();) {
    std::size_t end = first + 1;
    while (end < waiting_.size() && on_device_[end].device() == on_device_[first].device()) {
      ++end;
    }
    const at::Tensor values = at::stack(at::TensorList(on_device_).slice(first, end - first)).cpu();
    const auto* pairs = values.const_data_ptr<double>();
    for (; first < end; ++first, pairs += 2) {
      all[waiting_[first]] = {pairs[0], pairs[1]};
    }
  }
  return all;
}

void fold_weight(const at::Tensor& weight, const at::Tensor& source, const nn::LowRank& update, bool measure,
                 FoldedExtremes& extremes) {
  const at::Tensor out = weight.detach();
  const at::Tensor A = update.A.to(weight.device());
  const at::Tensor B = update.B.to(weight.device());
  if (nn::kernels::folds_in_one_pass(out, source)) {
    extremes.add(nn::kernels::fold_in_one_pass(out, source, B, A, measure));
    return;
  }
  if (nn::kernels::folds_on_device(out, source)) {
    const at::Tensor found = nn::kernels::fold_on_device(out, source, B, A, measure);
    measure ? extremes.add_on_device(found) : extremes.add({});
    return;
  }
  // In blocks of rows, so that the wide temporaries stay small.
  const std::int64_t rows = out.size(0);
  const std::int64_t step = std::max<std::int64_t>(1, (1 << 24) / std::max<std::int64_t>(1, out.size(1)));
  FoldExtremes largest;
  for (std::int64_t first = 0; first < rows; first += step) {
    const std::int64_t count = std::min(step, rows - first);
    largest = larger_of(largest, fold_tensors(out.narrow(0, first, count), source.narrow(0, first, count),
                                              B.narrow(0, first, count), A, measure));
  }
  extremes.add(largest);
}

}  // namespace moelora
