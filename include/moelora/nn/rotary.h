#pragma once
// Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs (a, b) of a head's columns turn by an angle that is the
// row's position times the pair's frequency, so that the product of a query and a key depends on their distance alone.
//
//   a' = a cos - b sin      b' = b cos + a sin
//
// Models differ in which columns make a pair, in the frequencies, and in how many columns of a head turn at all.

#include <ATen/core/Tensor.h>

namespace moelora::nn {

/// Which of a head's first d = rotary_dim columns make a pair.
enum class RotaryPairing {
  half,         ///< i and i + d/2
  interleaved,  ///< 2i and 2i + 1
  two_axes      ///< i and i + d/4 inside each half of the columns: each half turns by a position of its own
};

struct RotaryTables {
  at::Tensor cos;  ///< [rows, d]: for each column the cosine of its pair's angle
  at::Tensor sin;  ///< as cos
};

/// What the rows of a forward turn by; made once, for all layers.
struct Rotary {
  RotaryTables tables;
  RotaryPairing pairing = RotaryPairing::half;

  /// Columns of a head that turn, the first ones; the others stay as they are.
  std::int64_t rotary_dim() const { return tables.cos.size(1); }
  Rotary to(at::ScalarType dtype) const { return {{tables.cos.to(dtype), tables.sin.to(dtype)}, pairing}; }
};

/// theta^(-2i/d) for the d/2 pairs of d columns, fp32 [d/2].
at::Tensor rotary_frequencies(std::int64_t d, double theta = 10000.0, at::Device device = at::kCPU);

/// Angles of one axis: positions [rows] int64, frequencies [pairs] → position · frequency [rows, pairs], computed in
/// `dtype`.
at::Tensor rotary_angles(const at::Tensor& positions, const at::Tensor& frequencies, at::ScalarType dtype = at::kFloat);

/// positions [1, rows] int64, [2, rows] for two_axes; frequencies [d/2], [d/4] for two_axes (both axes have the same).
/// Cosines and sines are those of angles in `angle_dtype`, rounded to `dtype`.
Rotary make_rotary(const at::Tensor& positions, const at::Tensor& frequencies, RotaryPairing pairing,
                   at::ScalarType dtype, at::ScalarType angle_dtype = at::kFloat);

/// x [rows, heads, head_dim] → turned, same shape. Differentiable.
at::Tensor apply_rotary(const at::Tensor& x, const Rotary& rotary);

/// The same in place, not recorded by autograd; x may be a view with a unit last stride. inverse: turns back, which is
/// also the gradient.
void rotate_in_place(at::Tensor x, const Rotary& rotary, bool inverse = false);

/// Queries and keys of the same rows: on a device with kernels one launch for both.
void rotate_in_place(const at::Tensor& q, const at::Tensor& k, const Rotary& rotary, bool inverse = false);

/// The same as an fp32 copy, not recorded by autograd: for the few rows of a decoding step, whose queries stay
/// unrounded in a half model. x may be a view with a unit last stride.
at::Tensor rotated_in_float(const at::Tensor& x, const Rotary& rotary);

}  // namespace moelora::nn
