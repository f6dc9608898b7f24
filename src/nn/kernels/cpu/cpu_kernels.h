#pragma once
// The inner loops of the library on plain pointers, one table for each instruction set. Every file below isa/ is
// compiled once for each set (cmake/Kernels.cmake) and enters its operations into that set's table; a program chooses
// one table when it first needs one. Widths are counted in elements; a row is contiguous fp32 unless said otherwise.

#include <cstdint>
#include <string_view>
#include <vector>

#include "nn/kernels/cpu/decode_attention.h"
#include "nn/kernels/cpu/few_rows.h"
#include "nn/kernels/cpu/fold_rows.h"

namespace moelora::nn::kernels {

struct CpuKernels {
  const char* name;  ///< "plain", "avx2" or "avx512"

  // Decoding (few_rows.h, decode_attention.h).
  std::int64_t most_rows;  ///< Up to here few_rows keeps up with the memory.
  void (*few_rows)(const FewRows& call, std::int64_t first_output, std::int64_t last_output);
  void (*attend)(const OneRowAttention& call);

  // Merging (fold_rows.h). Rows first … last - 1.
  std::int64_t fold_columns;  ///< columns of a panel of A
  std::int64_t fold_at_once;  ///< A range of rows is best a multiple of it.
  FoldExtremes (*fold_rows)(const FoldRows& call, std::int64_t first, std::int64_t last);

  // Dropout. y = x · mask · scale for columns first, first + 1, …: a column is kept when its 32 hashed bits are at
  // least `threshold`. x and y point to column `first`; y may be x.
  void (*drop_row)(const float* x, float* y, std::int64_t first, std::int64_t count, std::uint64_t key,
                   std::uint32_t threshold, float scale);
  // The same from column 0 on, and kept[c] = 1 or 0 for finish_gradient_row.
  void (*drop_row_and_note)(const float* x, float* y, std::int64_t width, std::uint64_t key, std::uint32_t threshold,
                            float scale, std::uint8_t* kept);
  // dx = (dx + t · kept · scale) · derivative; kept and derivative may be nullptr: all ones.
  void (*finish_gradient_row)(const float* t, const std::uint8_t* kept, float scale, const float* derivative, float* dx,
                              std::int64_t width);

  // Layer normalisation: y = (x - mean) · rstd · weight + bias.
  void (*normalise_row)(const float* x, float mean, float rstd, const float* weight, const float* bias, float* y,
                        std::int64_t width);

  // Root mean square normalisation: x += y; 1 / sqrt(mean of x² + epsilon); y = x · rstd · weight. Backward, in place:
  // dy = rstd · (g - x · rstd² · mean of g · x) + dresidual with g = dy · weight; dresidual may be nullptr: zeros.
  void (*add_row)(float* x, const float* y, std::int64_t width);
  float (*rms_row)(const float* x, float epsilon, std::int64_t width);
  void (*rms_normalise_row)(const float* x, float rstd, const float* weight, float* y, std::int64_t width);
  void (*rms_normalise_backward_row)(const float* x, float rstd, const float* weight, const float* dresidual, float* dy,
                                     std::int64_t width);

  // SwiGLU: y = gate · s · up, s the logistic function of gate; and the gradients for both, of which either may be dy.
  void (*swiglu_row)(const float* gate, const float* up, float* y, std::int64_t width);
  void (*swiglu_backward_row)(const float* gate, const float* up, const float* dy, float* dgate, float* dup,
                              std::int64_t width);

  // GELU in its tanh form: y = GELU(x), y may be x; the same and derivative = GELU'(x); dx = dy · GELU'(x), dx may be
  // dy.
  void (*gelu_row)(const float* x, float* y, std::int64_t width);
  void (*gelu_derivative_row)(const float* x, float* y, float* derivative, std::int64_t width);
  void (*gelu_backward_row)(const float* x, const float* dy, float* dx, std::int64_t width);

  // Attention. s = softmax(s) over the first `seen` of `width` scores, 0 behind them; returns log(sum(exp(s))).
  float (*softmax_row)(float* s, std::int64_t seen, std::int64_t width);
  // s = exp(s - log_sum) over the first `seen` of `width` scores, 0 behind them.
  void (*probability_row)(float* s, std::int64_t seen, std::int64_t width, float log_sum);
  // dp = p · (dp - dot)
  void (*softmax_backward_row)(const float* p, float* dp, std::int64_t width, float dot);
  // Sum of a · b.
  float (*dot_row)(const float* a, const float* b, std::int64_t width);

  // One head of rotary embedding in place: pairs (i, i + width/4) inside each half of x turn by the tables' angle
  // (inverse: back).
  void (*rotate_row)(float* x, const float* cos, const float* sin, std::int64_t width, bool inverse);
  // The same for pairs (i, i + width/2).
  void (*rotate_halves_row)(float* x, const float* cos, const float* sin, std::int64_t width, bool inverse);
};

/// The widest set that this processor has, or the one that the environment variable MOELORA_CPU_ISA names; chosen at
/// the first call. Error for a name that is unknown here or that the processor lacks.
const CpuKernels& cpu_kernels();

/// All sets that this program has and this processor runs, from plain to the widest.
const std::vector<const CpuKernels*>& available_cpu_kernels();

/// One of them by name. Error naming the choices.
const CpuKernels& cpu_kernels_named(std::string_view name);

}  // namespace moelora::nn::kernels
