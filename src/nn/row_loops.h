#pragma once
// Loops over one row of fp32 numbers, compiled for the machine's widest registers. No LibTorch in here: the file
// compiles in a second, with its own optimisation flags.

#include <cstdint>

namespace moelora::nn::kernels {

/// y = x · mask · scale for columns first, first + 1, …: a column is kept when its 32 hashed bits are at least
/// `threshold`. x and y point to column `first`; y may be x.
void drop_row(const float* x, float* y, std::int64_t first, std::int64_t count, std::uint64_t key,
              std::uint32_t threshold, float scale);

/// The same, and kept[c] = 1 or 0 for finish_gradient_row.
void drop_row_and_note(const float* x, float* y, std::int64_t width, std::uint64_t key, std::uint32_t threshold,
                       float scale, std::uint8_t* kept);
/// dx = (dx + t · kept · scale) · derivative; kept and derivative may be nullptr: all ones.
void finish_gradient_row(const float* t, const std::uint8_t* kept, float scale, const float* derivative, float* dx,
                         std::int64_t width);

/// y = (x - mean) · rstd · weight + bias
void normalise_row(const float* x, float mean, float rstd, const float* weight, const float* bias, float* y,
                   std::int64_t width);

/// y = GELU(x), tanh form. y may be x.
void gelu_row(const float* x, float* y, std::int64_t width);
/// y = GELU(x) and derivative = GELU'(x).
void gelu_derivative_row(const float* x, float* y, float* derivative, std::int64_t width);
/// dx = dy · GELU'(x). dx may be dy.
void gelu_backward_row(const float* x, const float* dy, float* dx, std::int64_t width);

/// s = softmax(s) over the first `seen` of `width` scores, 0 behind them; returns log(sum(exp(s))).
float softmax_row(float* s, std::int64_t seen, std::int64_t width);
/// s = exp(s - log_sum) over the first `seen` of `width` scores, 0 behind them.
void probability_row(float* s, std::int64_t seen, std::int64_t width, float log_sum);
/// dp = p · (dp - dot)
void softmax_backward_row(const float* p, float* dp, std::int64_t width, float dot);

/// Sum of a · b.
float dot_row(const float* a, const float* b, std::int64_t width);

/// One head of rotary embedding in place: pairs (i, i + width/4) inside each half of x turn by the tables' angle
/// (inverse: back).
void rotate_row(float* x, const float* cos, const float* sin, std::int64_t width, bool inverse);

/// out[e] = Σ a · b over the e-th of `groups` equal parts of the row.
void grouped_dot_row(const float* a, const float* b, std::int64_t width, std::int64_t groups, float* out);

}  // namespace moelora::nn::kernels
