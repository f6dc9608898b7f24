#include "io/tensor_bytes.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <limits>

namespace moelora::io {

std::optional<std::uint64_t> checked_byte_count(const std::vector<std::int64_t>& shape, std::uint64_t item_size) {
  if (shape.size() > kMaximalDimensions) {
    return std::nullopt;
  }
  // Sizes beside a zero are multiplied too: LibTorch refuses shapes whose other sizes overflow.
  constexpr auto kLimit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::uint64_t product = item_size;
  bool empty = false;
  for (const std::int64_t size : shape) {
    if (size < 0) {
      return std::nullopt;
    }
    if (size == 0) {
      empty = true;
    } else if (product > kLimit / static_cast<std::uint64_t>(size)) {
      return std::nullopt;
    } else {
      product *= static_cast<std::uint64_t>(size);
    }
  }
  return empty ? 0 : product;
}

at::Tensor copy_from_bytes(const std::uint8_t* bytes, const std::vector<std::int64_t>& shape, at::ScalarType dtype) {
  at::Tensor tensor = at::empty(shape, at::TensorOptions(dtype));
  const std::size_t size = tensor.nbytes();
  if (size == 0) {
    return tensor;
  }
  auto* target = static_cast<std::uint8_t*>(tensor.mutable_data_ptr());
  if (dtype == at::kBool) {
    for (std::size_t i = 0; i < size; ++i) {
      target[i] = bytes[i] != 0;  // any other byte in a bool is undefined behaviour
    }
  } else {
    std::memcpy(target, bytes, size);
  }
  return tensor;
}

}  // namespace moelora::io
