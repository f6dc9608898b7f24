#include "nn/host_copy.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

namespace moelora::nn {

HostCopy::HostCopy(std::vector<at::Tensor> tensors) : tensors_(std::move(tensors)) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : tensors_) {
    if (tensor.defined() && !tensor.is_cpu()) {
      TORCH_INTERNAL_ASSERT(tensor.scalar_type() == at::kFloat);
      flat.push_back(tensor.detach().reshape({-1}));
    }
  }
  if (flat.empty()) {
    return;
  }
  const at::Tensor all = flat.size() == 1 ? flat.front() : at::cat(flat);
  packed_ = at::empty({all.numel()}, at::TensorOptions(at::kFloat).pinned_memory(true));
  packed_.copy_(all, /*non_blocking=*/true);
  const c10::impl::VirtualGuardImpl guard(all.device().type());
  sent_.emplace(all.device().type());
  sent_->record(guard.getStream(all.device()));
}

bool HostCopy::arrived() const { return !sent_ || sent_->query(); }

const std::vector<at::Tensor>& HostCopy::values() {
  if (sent_) {
    if (!sent_->query()) {
      sent_->synchronize();
    }
    std::int64_t begin = 0;
    for (at::Tensor& tensor : tensors_) {
      if (tensor.defined() && !tensor.is_cpu()) {
        tensor = packed_.narrow(0, begin, tensor.numel()).view(tensor.sizes());
        begin += tensor.numel();
      }
    }
    packed_.reset();
    sent_.reset();
  }
  return tensors_;
}

}  // namespace moelora::nn
