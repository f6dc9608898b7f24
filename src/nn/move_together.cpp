#include "nn/move_together.h"

#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <map>
#include <mutex>

namespace moelora::nn {
namespace {

constexpr std::size_t kAlignment = 16;  // of each tensor in the copy: any type can be read there

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// From here on a copy has a stream of its own: it need not wait for what the device still computes, as the next
// micro-batch would behind the present one. For less, as in decoding, the events cost more than they save.
constexpr std::size_t kBytesAside = std::size_t{32} * 1024;

/// The stream of a device's uploads; one for each, since all that are made keep events alive.
c10::Stream upload_stream(const c10::Device& device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, c10::Stream> streams;
  const std::lock_guard lock(mutex);
  auto found = streams.find(device.index());
  if (found == streams.end()) {
    const c10::impl::VirtualGuardImpl guard(device.type());
    found = streams.emplace(device.index(), guard.getStreamFromGlobalPool(device)).first;
  }
  return found->second;
}

at::Tensor copy_aside(const at::Tensor& pinned, const at::Device& device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  const c10::Device place = device.has_index() ? device : guard.getDevice();
  const c10::Stream present = guard.getStream(place);
  const c10::Stream aside = upload_stream(place);
  at::Tensor moved;
  {
    const c10::StreamGuard on_that_stream(aside);
    moved = pinned.to(place, /*non_blocking=*/true);
  }
  c10::Event copied(device.type());
  copied.record(aside);
  copied.block(present);
  moved.record_stream(present);  // its memory is not used again before `present` is done with it
  return moved;
}

}  // namespace

void move_together(const std::vector<at::Tensor*>& tensors, const at::Device& device) {
  if (device.is_cpu()) {
    return;
  }
  std::size_t bytes = 0;
  bool any = false;
  for (const at::Tensor* tensor : tensors) {
    if (tensor->defined()) {
      any = true;
      TORCH_INTERNAL_ASSERT(tensor->is_cpu() && tensor->is_contiguous());
      bytes += aligned(tensor->nbytes());
    }
  }
  if (!any) {
    return;
  }
  const at::Tensor packed =
      at::empty({static_cast<std::int64_t>(bytes)}, at::TensorOptions(at::kByte).pinned_memory(!device.is_meta()));
  auto* place = packed.mutable_data_ptr<std::uint8_t>();
  for (const at::Tensor* tensor : tensors) {
    if (tensor->defined() && tensor->nbytes() > 0) {
      std::memcpy(place, tensor->const_data_ptr(), tensor->nbytes());
      place += aligned(tensor->nbytes());
    }
  }
  const at::Tensor moved =
      !device.is_meta() && bytes >= kBytesAside ? copy_aside(packed, device) : packed.to(device, /*non_blocking=*/true);
  std::size_t begin = 0;
  for (at::Tensor* tensor : tensors) {
    if (tensor->defined()) {
      *tensor = moved.narrow(0, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(tensor->nbytes()))
                    .view(tensor->scalar_type())
                    .view(tensor->sizes());
      begin += aligned(tensor->nbytes());
    }
  }
}

}  // namespace moelora::nn
