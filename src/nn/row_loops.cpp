#include "nn/row_loops.h"

#include <bit>
#include <cmath>

// The choice is made while the program is loaded, before the thread sanitizer can run.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define MOELORA_WIDEST __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define MOELORA_WIDEST
#endif
#define MOELORA_INLINE inline __attribute__((always_inline))

namespace moelora::nn::kernels {
namespace {

// 32 random bits of column c: the "lowbias32" finaliser (C. Wellons, hash-prospector) over a keyed counter.
MOELORA_INLINE std::uint32_t column_bits(std::uint32_t low, std::uint32_t high, std::uint32_t column) {
  std::uint32_t h = (low + column * 0x9e3779b9u) ^ high;
  h = (h ^ (h >> 16)) * 0x7feb352du;
  h = (h ^ (h >> 15)) * 0x846ca68bu;
  return h ^ (h >> 16);
}

// exp(x) = 2^n · e^r with n = round(x log2(e)), |r| <= ln(2)/2, e^r by its Taylor polynomial of degree 7 (relative
// error below 2e-7). Arguments are clamped to the range in which the result is a normal number; below it the result is
// 0.
MOELORA_INLINE float fast_exp(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  constexpr float kShift = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  const float shifted = clamped * 1.44269504f + kShift;
  const float n = shifted - kShift;
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const std::int32_t exponent = (std::bit_cast<std::int32_t>(shifted) - 0x4b400000) << 23;
  const float result = std::bit_cast<float>(std::bit_cast<std::int32_t>(p) + exponent);
  return x < -87.0f ? 0.0f : result;
}

constexpr float kGeluScale = 1.5957691216057308f;  // 2 sqrt(2/π): 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2z))
constexpr float kGeluCube = 0.044715f;

MOELORA_INLINE float gelu_sigmoid(float x) {
  return 1.0f / (1.0f + fast_exp(-kGeluScale * (x + kGeluCube * x * x * x)));
}

// GELU'(x), with s = gelu_sigmoid(x).
MOELORA_INLINE float gelu_derivative(float x, float s) {
  return s + x * s * (1.0f - s) * kGeluScale * (1.0f + 3.0f * kGeluCube * x * x);
}

}  // namespace

MOELORA_WIDEST void drop_row(const float* x, float* y, std::int64_t first, std::int64_t count, std::uint64_t key,
                             std::uint32_t threshold, float scale) {
  const auto low = static_cast<std::uint32_t>(key);
  const auto high = static_cast<std::uint32_t>(key >> 32);
#pragma omp simd
  for (std::int64_t c = 0; c < count; ++c) {
    const float keep = column_bits(low, high, static_cast<std::uint32_t>(first + c)) >= threshold ? scale : 0.0f;
    y[c] = x[c] * keep;
  }
}

MOELORA_WIDEST void drop_row_and_note(const float* x, float* y, std::int64_t width, std::uint64_t key,
                                      std::uint32_t threshold, float scale, std::uint8_t* kept) {
  const auto low = static_cast<std::uint32_t>(key);
  const auto high = static_cast<std::uint32_t>(key >> 32);
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    const bool keep = column_bits(low, high, static_cast<std::uint32_t>(c)) >= threshold;
    y[c] = x[c] * (keep ? scale : 0.0f);
    kept[c] = keep ? 1 : 0;
  }
}

MOELORA_WIDEST void finish_gradient_row(const float* t, const std::uint8_t* kept, float scale, const float* derivative,
                                        float* dx, std::int64_t width) {
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

MOELORA_WIDEST void normalise_row(const float* x, float mean, float rstd, const float* weight, const float* bias,
                                  float* y, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    y[c] = (x[c] - mean) * rstd * weight[c] + bias[c];
  }
}

MOELORA_WIDEST void gelu_row(const float* x, float* y, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    y[c] = x[c] * gelu_sigmoid(x[c]);
  }
}

MOELORA_WIDEST void gelu_derivative_row(const float* x, float* y, float* derivative, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    const float s = gelu_sigmoid(x[c]);
    y[c] = x[c] * s;
    derivative[c] = gelu_derivative(x[c], s);
  }
}

MOELORA_WIDEST void gelu_backward_row(const float* x, const float* dy, float* dx, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    dx[c] = dy[c] * gelu_derivative(x[c], gelu_sigmoid(x[c]));
  }
}

MOELORA_WIDEST float softmax_row(float* s, std::int64_t seen, std::int64_t width) {
  float largest = s[0];
#pragma omp simd reduction(max : largest)
  for (std::int64_t c = 0; c < seen; ++c) {
    largest = s[c] > largest ? s[c] : largest;
  }
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < seen; ++c) {
    s[c] = fast_exp(s[c] - largest);
    sum += s[c];
  }
  const float factor = 1.0f / sum;
#pragma omp simd
  for (std::int64_t c = 0; c < seen; ++c) {
    s[c] *= factor;
  }
  for (std::int64_t c = seen; c < width; ++c) {
    s[c] = 0.0f;
  }
  return largest + std::log(sum);
}

MOELORA_WIDEST void probability_row(float* s, std::int64_t seen, std::int64_t width, float log_sum) {
#pragma omp simd
  for (std::int64_t c = 0; c < seen; ++c) {
    s[c] = fast_exp(s[c] - log_sum);
  }
  for (std::int64_t c = seen; c < width; ++c) {
    s[c] = 0.0f;
  }
}

MOELORA_WIDEST void softmax_backward_row(const float* p, float* dp, std::int64_t width, float dot) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    dp[c] = p[c] * (dp[c] - dot);
  }
}

MOELORA_WIDEST float dot_row(const float* a, const float* b, std::int64_t width) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < width; ++c) {
    sum += a[c] * b[c];
  }
  return sum;
}

MOELORA_WIDEST void rotate_row(float* x, const float* cos, const float* sin, std::int64_t width, bool inverse) {
  const std::int64_t quarter = width / 4;
  const float sign = inverse ? -1.0f : 1.0f;
  for (std::int64_t axis = 0; axis < 2; ++axis) {
    float* first = x + axis * 2 * quarter;
    float* second = first + quarter;
    const float* c = cos + axis * 2 * quarter;
    const float* s = sin + axis * 2 * quarter;
#pragma omp simd
    for (std::int64_t i = 0; i < quarter; ++i) {
      const float a = first[i];
      const float b = second[i];
      first[i] = a * c[i] - b * s[i] * sign;
      second[i] = b * c[i] + a * s[i] * sign;
    }
  }
}

void grouped_dot_row(const float* a, const float* b, std::int64_t width, std::int64_t groups, float* out) {
  const std::int64_t share = width / groups;
  for (std::int64_t e = 0; e < groups; ++e) {
    float sum = 0.0f;
    for (std::int64_t i = e * share; i < (e + 1) * share; ++i) {
      sum += a[i] * b[i];
    }
    out[e] = sum;
  }
}

}  // namespace moelora::nn::kernels
