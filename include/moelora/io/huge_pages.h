#pragma once
// Large tensors on transparent huge pages: reading weights once per token is bound by memory, and with 4 KiB pages a
// good part of that time goes into address translation.

#include <ATen/core/Tensor.h>

#include <cstddef>

namespace moelora::io {

/// Asks the kernel to back the whole 2 MiB pages inside [data, data + bytes) by huge ones (Linux: MADV_HUGEPAGE; a hint
/// that may do nothing). It acts when a page is first touched, so call it before the memory is written.
void advise_huge_pages(void* data, std::size_t bytes);

/// An uninitialised contiguous CPU tensor; from 2 MiB on aligned to 2 MiB and advised as above, else as at::empty.
at::Tensor empty_on_huge_pages(at::IntArrayRef shape, at::ScalarType dtype);

}  // namespace moelora::io
