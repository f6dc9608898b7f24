#include "moelora/io/huge_pages.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#include "io/tensor_bytes.h"
#include "moelora/io/error.h"

namespace moelora::io {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

void advise_huge_pages(void* data, std::size_t bytes) {
#ifdef MADV_HUGEPAGE
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (end > begin) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a refused hint changes nothing
  }
#endif
}

at::Tensor empty_on_huge_pages(at::IntArrayRef shape, at::ScalarType dtype) {
  const auto bytes = checked_byte_count(shape.vec(), c10::elementSize(dtype));
  MOELORA_CHECK(bytes.has_value(), "expected the shape of a tensor that fits into memory, found ", shape);
  if (*bytes < kHugePage) {
    return at::empty(shape, at::TensorOptions(dtype));
  }
  // The last, partial page stays small: a tensor takes no more memory than before.
  void* data = std::aligned_alloc(kHugePage, (*bytes + kHugePage - 1) / kHugePage * kHugePage);
  if (data == nullptr) {
    throw std::bad_alloc();
  }
  advise_huge_pages(data, *bytes);
  return at::from_blob(
      data, shape, [](void* memory) { std::free(memory); }, at::TensorOptions(dtype));
}

}  // namespace moelora::io
