#include "io/tensor_bytes.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "io/mapped_file.h"
#include "moelora/io/huge_pages.h"

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

namespace {

// Bytes of a file that are copied, then given back.
constexpr std::int64_t kFileBlock = std::int64_t{4} << 20;

}  // namespace

at::Tensor copy_from_file(const std::uint8_t* bytes, const std::vector<std::int64_t>& shape, at::ScalarType dtype,
                          at::ScalarType as) {
  at::Tensor tensor = at::empty(shape, at::TensorOptions(as));
  advise_huge_pages(tensor.mutable_data_ptr(), tensor.nbytes());
  const auto item_size = static_cast<std::int64_t>(c10::elementSize(dtype));
  const std::int64_t step = kFileBlock / item_size;
  const std::int64_t blocks = (tensor.numel() + step - 1) / step;
  const at::Tensor flat = tensor.view({-1});
  at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * step;
      const std::int64_t count = std::min(step, tensor.numel() - first);
      const std::uint8_t* from = bytes + first * item_size;
      if (dtype == as && dtype != at::kBool) {
        std::memcpy(static_cast<std::uint8_t*>(flat.mutable_data_ptr()) + first * item_size, from,
                    static_cast<std::size_t>(count * item_size));
      } else {
        flat.narrow(0, first, count).copy_(copy_from_bytes(from, {count}, dtype));
      }
      MappedFile::release(from, static_cast<std::size_t>(count * item_size));
    }
  });
  return tensor;
}

bool same_bytes_in_files(std::string_view a, std::string_view b) {
  bool same = a.size() == b.size();
  for (std::size_t first = 0; same && first < a.size(); first += kFileBlock) {
    const std::string_view of_a = a.substr(first, kFileBlock);
    const std::string_view of_b = b.substr(first, kFileBlock);
    same = of_a == of_b;
    MappedFile::release(of_a.data(), of_a.size());
    MappedFile::release(of_b.data(), of_b.size());
  }
  return same;
}

}  // namespace moelora::io
