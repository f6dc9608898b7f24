// The operators that a device must have itself: memory, views and copies. All others fall back to the CPU's.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <torch/library.h>

#include "support/pretend_device/counting.h"
#include "support/pretend_device/fallback.h"
#include "support/pretend_device/memory.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::testing::pretend {
namespace {

using c10::IntArrayRef;
using std::optional;

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

at::Tensor empty(IntArrayRef size, optional<c10::ScalarType> dtype, optional<c10::Layout>, optional<c10::Device>,
                 optional<bool> pinned, optional<c10::MemoryFormat> format) {
  TORCH_CHECK(!c10::pinned_memory_or_default(pinned), "pinned memory is the CPU's");
  return at::detail::empty_generic(size, &device_allocator(), kKeys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(IntArrayRef size, IntArrayRef stride, optional<c10::ScalarType> dtype, optional<c10::Layout>,
                         optional<c10::Device>, optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &device_allocator(), kKeys, c10::dtype_or_default(dtype));
}

at::Tensor as_strided(const at::Tensor& self, IntArrayRef size, IntArrayRef stride, optional<std::int64_t> offset) {
  return at::cpu::as_strided(self, size, stride, offset);
}

at::Tensor view(const at::Tensor& self, IntArrayRef size) { return at::native::view(self, size); }

at::Tensor unfold(const at::Tensor& self, std::int64_t axis, std::int64_t size, std::int64_t step) {
  return at::native::unfold(self, axis, size, step);
}

at::Tensor reshape_alias(const at::Tensor& self, IntArrayRef size, IntArrayRef stride) {
  return at::native::_reshape_alias(self, size, stride);
}

const at::Tensor& resize(const at::Tensor& self, IntArrayRef size, optional<c10::MemoryFormat> format) {
  const Unlocked unlocked;
  return at::native::resize_(self, size, format);
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) { return at::native::set_tensor_(self, source); }

at::Tensor& set_storage(at::Tensor& self, at::Storage source) { return at::native::set_(self, source); }

at::Tensor& set_part(at::Tensor& self, at::Storage source, std::int64_t offset, IntArrayRef size, IntArrayRef stride) {
  return at::cpu::set_(self, source, offset, size, stride);
}

void record_stream(at::Tensor&, at::Stream) {}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  if (inside_launch()) {
    // part of a launch
  } else if (to.is_cpu()) {
    if (!non_blocking || !is_pinned_memory(to.const_data_ptr())) {
      count_wait("copy to the host");
    }
  } else if (self.is_cpu()) {
    count_upload(self.nbytes(), !non_blocking || !is_pinned_memory(self.const_data_ptr()));
  } else {
    count_operator("aten::copy_");
  }
  const Unlocked unlocked;
  const at::NoGradGuard no_grad;
  on_host(to).copy_(on_host(self));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  if (to.sizes() != self.sizes()) {
    to.resize_(self.sizes());
  }
  return copy_from(self, to, false);
}

at::Scalar local_scalar(const at::Tensor& self) {
  count_wait("item");
  const Unlocked unlocked;
  return at::native::_local_scalar_dense_cpu(on_host(self));
}

// Module::to moves a parameter by set_data, which asks this; LibTorch's own list of dense backends leaves PrivateUse1
// out.
bool compatible(const at::Tensor&, const at::Tensor&) { return true; }

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>()); }

/// On CUDA an operator on lists is one launch; elsewhere LibTorch makes one operator for each tensor of it.
void run_lists_at_once() {
  static torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name.rfind("aten::_foreach_", 0) == 0) {
      library.impl(c10::toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
    }
  }
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("unfold", unfold);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("resize_", resize);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_part);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("record_stream", record_stream);
  m.impl("_has_compatible_shallow_copy_type", compatible);
}

}  // namespace moelora::testing::pretend
