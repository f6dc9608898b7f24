#include <ATen/ATen.h>

#include <algorithm>

#include "moelora/io/tensor_folder.h"

namespace moelora::io {
namespace {

constexpr std::int64_t kComparedWhole = 1'000'000;  // values; of larger tensors
constexpr std::int64_t kComparedPiece = 32'768;     // values at three places

bool same_piece(const TensorFolder& a, const TensorFolder& b, const std::string& name, std::int64_t begin,
                std::int64_t count) {
  at::Tensor left = a.piece(name, begin, count);
  at::Tensor right = b.piece(name, begin, count);
  if (left.scalar_type() != right.scalar_type()) {
    if (!left.is_floating_point() || !right.is_floating_point()) {
      return false;
    }
    const auto narrower = left.element_size() < right.element_size() ? left.scalar_type() : right.scalar_type();
    left = left.to(narrower);
    right = right.to(narrower);
  }
  return at::equal(left, right) ||
         (left.is_floating_point() && at::allclose(left, right, /*rtol=*/0, /*atol=*/0, /*equal_nan=*/true));
}

bool same_tensor(const TensorFolder& a, const TensorFolder& b, const std::string& name) {
  if (a.info(name).shape != b.info(name).shape) {
    return false;
  }
  std::int64_t count = 1;
  for (const std::int64_t size : a.info(name).shape) {
    count *= size;
  }
  if (count <= kComparedWhole) {
    return same_piece(a, b, name, 0, count);
  }
  return same_piece(a, b, name, 0, kComparedPiece) &&
         same_piece(a, b, name, (count - kComparedPiece) / 2, kComparedPiece) &&
         same_piece(a, b, name, count - kComparedPiece, kComparedPiece);
}

}  // namespace

std::vector<std::string> differing_tensors(const TensorFolder& a, const TensorFolder& b,
                                           const std::vector<std::string>& names) {
  std::vector<std::string> differing;
  for (const std::string& name : names) {
    const bool in_a = a.contains(name);
    const bool in_b = b.contains(name);
    if (in_a != in_b || (in_a && !same_tensor(a, b, name))) {
      differing.push_back(name);
    }
  }
  return differing;
}

}  // namespace moelora::io
