#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/operations.h"
#include "nn/kernels/cpu/isa/same_bits.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

// 32 random bits of column c: the "lowbias32" finaliser (C. Wellons, hash-prospector) over a keyed counter.
MOELORA_INLINE std::uint32_t column_bits(std::uint32_t low, std::uint32_t high, std::uint32_t column) {
  std::uint32_t h = (low + column * 0x9e3779b9u) ^ high;
  h = (h ^ (h >> 16)) * 0x7feb352du;
  h = (h ^ (h >> 15)) * 0x846ca68bu;
  return h ^ (h >> 16);
}

void drop_row(const float* x, float* y, std::int64_t first, std::int64_t count, std::uint64_t key,
              std::uint32_t threshold, float scale) {
  const auto low = static_cast<std::uint32_t>(key);
  const auto high = static_cast<std::uint32_t>(key >> 32);
#pragma omp simd
  for (std::int64_t c = 0; c < count; ++c) {
    const float keep = column_bits(low, high, static_cast<std::uint32_t>(first + c)) >= threshold ? scale : 0.0f;
    y[c] = x[c] * keep;
  }
}

void drop_row_and_note(const float* x, float* y, std::int64_t width, std::uint64_t key, std::uint32_t threshold,
                       float scale, std::uint8_t* kept) {
  const auto low = static_cast<std::uint32_t>(key);
  const auto high = static_cast<std::uint32_t>(key >> 32);
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    const bool keep = column_bits(low, high, static_cast<std::uint32_t>(c)) >= threshold;
    y[c] = x[c] * (keep ? scale : 0.0f);
    kept[c] = keep ? 1 : 0;
  }
}

void finish_gradient_row(const float* t, const std::uint8_t* kept, float scale, const float* derivative, float* dx,
                         std::int64_t width) {
  if (kept != nullptr && derivative != nullptr) {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) {
      dx[c] = (dx[c] + t[c] * (kept[c] != 0 ? scale : 0.0f)) * derivative[c];
    }
  } else if (kept != nullptr) {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) {
      dx[c] += t[c] * (kept[c] != 0 ? scale : 0.0f);
    }
  } else if (derivative != nullptr) {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) {
      dx[c] = (dx[c] + t[c]) * derivative[c];
    }
  } else {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) {
      dx[c] += t[c];
    }
  }
}

}  // namespace

void enter_dropout(CpuKernels& table) {
  table.drop_row = drop_row;
  table.drop_row_and_note = drop_row_and_note;
  table.finish_gradient_row = finish_gradient_row;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
