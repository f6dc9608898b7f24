#include "moelora/io/fingerprint.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/sha256.h"

namespace moelora::io {
namespace {

// 64 KiB stay in a core's cache, and are too little for LibTorch to start threads of its own for a copy.
constexpr std::int64_t kPiece = std::int64_t{1} << 14;

void check_is_dense(const std::string& name, const at::Tensor& tensor) {
  MOELORA_CHECK(tensor.defined() && !tensor.is_complex() && tensor.layout() == at::kStrided,
                "no fingerprint of the tensor ", name, ": expected a dense tensor of real numbers");
}

// Values are converted piece by piece: the fp32 form of the whole model is never in memory. A device's tensor comes
// over whole, for each copy waits.
std::string digest_as_fp32(const at::Tensor& tensor, at::Tensor& buffer) {
  const at::Tensor flat = tensor.detach().cpu().reshape({-1});
  Sha256 hash;
  for (std::int64_t start = 0; start < flat.numel(); start += buffer.numel()) {
    const std::int64_t count = std::min(buffer.numel(), flat.numel() - start);
    const at::Tensor piece = flat.narrow(0, start, count);
    if (piece.scalar_type() == at::kFloat && piece.is_contiguous()) {
      hash.update(piece.const_data_ptr(), static_cast<std::size_t>(count) * sizeof(float));
    } else {
      buffer.narrow(0, 0, count).copy_(piece);
      hash.update(buffer.const_data_ptr(), static_cast<std::size_t>(count) * sizeof(float));
    }
  }
  return hash.hex();
}

}  // namespace

std::string fingerprint(const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    check_is_dense(name, tensor);
  }
  // Largest first, each worker takes the next: the embedding does not end up last on a single core.
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return tensors[a].second.numel() > tensors[b].second.numel(); });
  // A tensor under two names (a tied head) is read once.
  std::vector<std::size_t> first_of(tensors.size());
  std::map<std::tuple<const void*, at::ScalarType, std::int64_t>, std::size_t> seen;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor& tensor = tensors[i].second;
    const bool plain = tensor.is_contiguous() && tensor.numel() > 0;
    first_of[i] =
        !plain ? i : seen.try_emplace({tensor.const_data_ptr(), tensor.scalar_type(), tensor.numel()}, i).first->second;
  }
  std::vector<std::string> digests(tensors.size());
  std::atomic<std::size_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t, std::int64_t) {
    at::Tensor buffer = at::empty({kPiece}, at::TensorOptions(at::kFloat));
    for (std::size_t i = next++; i < order.size(); i = next++) {
      if (first_of[order[i]] == order[i]) {
        digests[order[i]] = digest_as_fp32(tensors[order[i]].second, buffer);
      }
    }
  });
  std::vector<TensorDigest> all;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    all.push_back({tensors[i].first, tensors[i].second.sizes().vec(), digests[first_of[i]]});
  }
  return fingerprint_of(std::move(all));
}

TensorDigest tensor_digest(const std::string& name, const at::Tensor& tensor) {
  check_is_dense(name, tensor);
  at::Tensor buffer = at::empty({kPiece}, at::TensorOptions(at::kFloat));
  return {name, tensor.sizes().vec(), digest_as_fp32(tensor, buffer)};
}

std::string fingerprint_of(std::vector<TensorDigest> digests) {
  std::sort(digests.begin(), digests.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  Sha256 whole;
  const std::string* previous = nullptr;
  for (const auto& [name, shape, digest] : digests) {
    MOELORA_CHECK(previous == nullptr || *previous != name, "no fingerprint: the tensor ", name, " is given twice");
    previous = &name;
    std::string line = detail::concat(name.size(), ":", name, " [");
    for (std::size_t d = 0; d < shape.size(); ++d) {
      line += detail::concat(d > 0 ? "," : "", shape[d]);
    }
    whole.update(line + "] " + digest + "\n");
  }
  return whole.hex();
}

}  // namespace moelora::io
