#include "moelora/model/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "moelora/io/splitmix64.h"

namespace moelora::model {

std::uint64_t stream_state(std::uint64_t seed, std::uint64_t sequence) {
  return io::splitmix_output(io::splitmix(seed) + sequence);
}

TokenSampler::TokenSampler(const GenerationOptions& options, std::uint64_t sequence)
    : options_(options), state_(stream_state(options.seed, sequence)) {}

double TokenSampler::uniform() {
  state_ += io::kSplitMixStep;
  return static_cast<double>(io::splitmix_output(state_) >> 11) * 0x1.0p-53;
}

std::int64_t TokenSampler::next(const at::Tensor& logits) {
  const at::Tensor row = logits.contiguous();
  const float* value = row.const_data_ptr<float>();
  const auto vocab = row.size(0);
  if (!options_.sample) {
    // Not std::max_element, which compares one after the other.
    float largest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : largest)
    for (std::int64_t i = 0; i < vocab; ++i) {
      largest = std::max(largest, value[i]);
    }
    const auto first = std::find(value, value + vocab, largest) - value;
    return first < vocab ? first : 0;
  }
  std::vector<std::int64_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  const auto by_logit = [&](std::int64_t a, std::int64_t b) {
    return value[a] != value[b] ? value[a] > value[b] : a < b;
  };
  std::size_t kept = options_.top_k > 0 ? std::min<std::size_t>(options_.top_k, order.size()) : order.size();
  if (options_.top_p < 1.0) {
    std::sort(order.begin(), order.end(), by_logit);
  } else {
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), by_logit);
  }
  std::vector<double> weight(kept);
  double total = 0.0;
  for (std::size_t i = 0; i < kept; ++i) {
    weight[i] = std::exp((static_cast<double>(value[order[i]]) - value[order[0]]) / options_.temperature);
    total += weight[i];
  }
  if (options_.top_p < 1.0) {
    double seen = 0.0;
    std::size_t enough = 0;
    while (enough < kept && seen < options_.top_p * total) {
      seen += weight[enough++];
    }
    kept = std::max<std::size_t>(enough, 1);
    total = seen;
  }
  double draw = uniform() * total;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    draw -= weight[i];
    if (draw < 0.0) {
      return order[i];
    }
  }
  return order[kept - 1];
}

}  // namespace moelora::model
