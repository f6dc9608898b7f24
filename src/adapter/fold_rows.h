// The loops of fold_kernel.cpp, which includes this file once for each instruction set, with `Lanes` (its vectors) and
// MOELORA_FOLD_TARGET (the attribute that allows its instructions) defined. Hence no include guard.
//
// A tile is kRows rows by kColumns columns. `panels` is A rearranged: for every kColumns columns [r, kColumns], padded
// with zeros, so that the products read it front to back.

constexpr std::int64_t kColumns = 2 * Lanes::kWidth;
constexpr int kRows = Lanes::kRows;

struct Sums {
  Lanes::Vector rounding;
  Lanes::Vector update;
  Lanes::Vector lost;  // NaN as soon as one rounding is infinite or NaN
};

template <typename Scalar, int rows, bool measure, bool stream>
MOELORA_FOLD_TARGET void fold_tile(Scalar* out, const Scalar* source, std::int64_t stride, const float* B,
                                   std::int64_t r, const float* panel, Sums& sums) {
  Lanes::Vector sum[rows][2];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
    sum[i][0] = Lanes::zero();
    sum[i][1] = Lanes::zero();
    // The rows below are next; their lines lie on other pages, where the hardware does not look ahead. (An address, not
    // a pointer: beyond the last row there may be nothing, which a prefetch does not mind.)
    const auto below =
        reinterpret_cast<std::uintptr_t>(source) + static_cast<std::uintptr_t>((i + rows) * stride) * sizeof(Scalar);
    Lanes::prefetch(below);
    if (sizeof(Scalar) == sizeof(float)) {
      Lanes::prefetch(below + Lanes::kWidth * sizeof(Scalar));
    }
  }
  for (std::int64_t k = 0; k < r; ++k) {
    const Lanes::Vector left = Lanes::load(panel + k * kColumns);
    const Lanes::Vector right = Lanes::load(panel + k * kColumns + Lanes::kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Lanes::Vector factor = Lanes::broadcast(B[i * r + k]);
      sum[i][0] = Lanes::multiply_add(factor, left, sum[i][0]);
      sum[i][1] = Lanes::multiply_add(factor, right, sum[i][1]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
    const Scalar* from = source + i * stride;
    const Lanes::Vector wide[2] = {Lanes::add(Lanes::unpack(Lanes::read(from)), sum[i][0]),
                                   Lanes::add(Lanes::unpack(Lanes::read(from + Lanes::kWidth)), sum[i][1])};
    const auto left = Lanes::pack<Scalar>(wide[0]);
    const auto right = Lanes::pack<Scalar>(wide[1]);
    if constexpr (measure) {
      const Lanes::Vector differences[2] = {Lanes::distance(Lanes::unpack(left), wide[0]),
                                            Lanes::distance(Lanes::unpack(right), wide[1])};
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        sums.rounding = Lanes::larger(differences[half], sums.rounding);
        sums.lost = Lanes::multiply_add(differences[half], Lanes::zero(), sums.lost);
        sums.update = Lanes::larger(Lanes::distance(sum[i][half], Lanes::zero()), sums.update);
      }
    }
    Lanes::write<stream>(out + i * stride, left, right);
  }
}

/// Columns that fill no whole tile, by way of a tile of zeros.
template <typename Scalar, int rows, bool measure>
MOELORA_FOLD_TARGET void fold_edge(Scalar* out, const Scalar* source, std::int64_t stride, std::int64_t columns,
                                   const float* B, std::int64_t r, const float* panel, Sums& sums) {
  alignas(64) Scalar tile[rows * kColumns] = {};
  for (int i = 0; i < rows; ++i) {
    std::copy_n(source + i * stride, columns, tile + i * kColumns);
  }
  fold_tile<Scalar, rows, measure, false>(tile, tile, kColumns, B, r, panel, sums);
  for (int i = 0; i < rows; ++i) {
    std::copy_n(tile + i * kColumns, columns, out + i * stride);
  }
}

template <typename Scalar, int rows, bool measure, bool stream>
MOELORA_FOLD_TARGET void fold_some_rows(Scalar* out, const Scalar* source, std::int64_t stride, std::int64_t begin,
                                        std::int64_t end, const float* B, std::int64_t r, const float* panels,
                                        Sums& sums) {
  std::int64_t column = begin;
  for (; column + kColumns <= end; column += kColumns) {
    fold_tile<Scalar, rows, measure, stream>(out + column, source + column, stride, B, r, panels + column * r, sums);
  }
  if (column < end) {
    fold_edge<Scalar, rows, measure>(out + column, source + column, stride, end - column, B, r, panels + column * r,
                                     sums);
  }
}

/// The largest of `values`, and NaN if `lost` is.
template <typename Values>
double extreme_of(const Values& values, bool lost) {
  double largest = 0.0;
  for (const auto value : values) {
    largest = std::max<double>(largest, value);
  }
  return lost ? std::numeric_limits<double>::quiet_NaN() : largest;
}

/// Rows of one thread, in blocks of columns whose part of A stays in the second-level cache.
template <typename Scalar, bool measure, bool stream>
MOELORA_FOLD_TARGET FoldExtremes fold_rows(const Fold<Scalar>& fold, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t kPanelBytes = 512 << 10;
  const std::int64_t r = fold.r;
  const std::int64_t width = std::max<std::int64_t>(1, kPanelBytes / (kColumns * r * 4)) * kColumns;
  Sums sums{Lanes::zero(), Lanes::zero(), Lanes::zero()};
  for (std::int64_t begin = 0; begin < fold.columns; begin += width) {
    const std::int64_t end = std::min(begin + width, fold.columns);
    std::int64_t row = first;
    for (; row + kRows <= last; row += kRows) {
      fold_some_rows<Scalar, kRows, measure, stream>(fold.out + row * fold.columns, fold.source + row * fold.columns,
                                                     fold.columns, begin, end, fold.B + row * r, r, fold.panels, sums);
    }
    for (; row < last; ++row) {
      fold_some_rows<Scalar, 1, measure, stream>(fold.out + row * fold.columns, fold.source + row * fold.columns,
                                                 fold.columns, begin, end, fold.B + row * r, r, fold.panels, sums);
    }
  }
  if (stream) {
    Lanes::finish_streams();
  }
  FoldExtremes extremes;
  if (measure) {
    float values[3][Lanes::kWidth];
    std::memcpy(values[0], &sums.rounding, sizeof values[0]);
    std::memcpy(values[1], &sums.update, sizeof values[1]);
    std::memcpy(values[2], &sums.lost, sizeof values[2]);
    const bool lost = std::any_of(values[2], values[2] + Lanes::kWidth, [](float value) { return std::isnan(value); });
    extremes = {extreme_of(values[0], lost), extreme_of(values[1], false)};
  }
  return extremes;
}

/// What fp32 rows became, against the sums in fp64. `source` holds the rows as they were.
template <int rows>
MOELORA_FOLD_TARGET void measure_rows(const float* out, const float* source, std::int64_t columns, const float* B,
                                      std::int64_t r, const float* panels, FoldExtremes& extremes) {
  typedef double Wide __attribute__((vector_size(4 * Lanes::kWidth)));
  typedef float Narrow __attribute__((vector_size(2 * Lanes::kWidth)));
  constexpr int kWide = Lanes::kWidth / 2;
  Wide rounding = {}, update = {}, lost = {};
  const Wide zero = {};
  for (std::int64_t column = 0; column < columns; column += kColumns) {
    const float* panel = panels + column * r;
    Wide sum[rows][4] = {};
    for (std::int64_t k = 0; k < r; ++k) {
      Wide a[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        Narrow narrow;
        std::memcpy(&narrow, panel + k * kColumns + v * kWide, sizeof narrow);
        a[v] = __builtin_convertvector(narrow, Wide);
      }
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        const double factor = B[i * r + k];
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          sum[i][v] += factor * a[v];
        }
      }
    }
    const std::int64_t count = std::min(kColumns, columns - column);
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) {
      const float* before = source + i * columns + column;
      const float* after = out + i * columns + column;
      float padded[2][kColumns];
      if (count < kColumns) {
        std::fill_n(&padded[0][0], 2 * kColumns, 0.0f);
        before = std::copy_n(before, count, padded[0]) - count;
        after = std::copy_n(after, count, padded[1]) - count;
      }
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        Narrow was, is;
        std::memcpy(&was, before + v * kWide, sizeof was);
        std::memcpy(&is, after + v * kWide, sizeof is);
        Wide difference = __builtin_convertvector(is, Wide) - (__builtin_convertvector(was, Wide) + sum[i][v]);
        difference = difference < zero ? -difference : difference;
        rounding = difference > rounding ? difference : rounding;
        lost += difference * zero;
        const Wide size = sum[i][v] < zero ? -sum[i][v] : sum[i][v];
        update = size > update ? size : update;
      }
    }
  }
  double values[3][kWide];
  std::memcpy(values[0], &rounding, sizeof rounding);
  std::memcpy(values[1], &update, sizeof update);
  std::memcpy(values[2], &lost, sizeof lost);
  const bool any = std::any_of(values[2], values[2] + kWide, [](double value) { return std::isnan(value); });
  extremes.include({extreme_of(values[0], any), extreme_of(values[1], false)});
}

/// As fold_rows, a few rows at a time: their source is kept where the fold overwrites it.
MOELORA_FOLD_TARGET inline FoldExtremes fold_and_measure_fp32(const Fold<float>& fold, std::int64_t first,
                                                              std::int64_t last) {
  FoldExtremes extremes;
  std::vector<float> kept(static_cast<std::size_t>(kRows * fold.columns));
  for (std::int64_t row = first; row < last; row += kRows) {
    const std::int64_t end = std::min<std::int64_t>(row + kRows, last);
    std::copy(fold.source + row * fold.columns, fold.source + end * fold.columns, kept.data());
    fold_rows<float, false, false>(fold, row, end);
    constexpr int kAtOnce = kRows / 2;
    std::int64_t i = row;
    for (; i + kAtOnce <= end; i += kAtOnce) {
      measure_rows<kAtOnce>(fold.out + i * fold.columns, kept.data() + (i - row) * fold.columns, fold.columns,
                            fold.B + i * fold.r, fold.r, fold.panels, extremes);
    }
    for (; i < end; ++i) {
      measure_rows<1>(fold.out + i * fold.columns, kept.data() + (i - row) * fold.columns, fold.columns,
                      fold.B + i * fold.r, fold.r, fold.panels, extremes);
    }
  }
  return extremes;
}

template <typename Scalar>
FoldExtremes fold_range(const Fold<Scalar>& fold, std::int64_t first, std::int64_t last, bool measure) {
  if (measure) {
    if constexpr (std::is_same_v<Scalar, float>) {
      return fold_and_measure_fp32(fold, first, last);
    } else {
      return fold.streams ? fold_rows<Scalar, true, true>(fold, first, last)
                          : fold_rows<Scalar, true, false>(fold, first, last);
    }
  }
  return fold.streams ? fold_rows<Scalar, false, true>(fold, first, last)
                      : fold_rows<Scalar, false, false>(fold, first, last);
}
