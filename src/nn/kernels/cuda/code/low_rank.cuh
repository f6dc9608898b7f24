#pragma once
// A low-rank update of rows, y = bias + B (w ⊙ u) with u = A drop(x), and its backward. A [rank, d_in] and B
// [d_out, rank] are read as they are stored, in fp32; rows have any type of element; sums are fp32. w: the weight of
// the expert that an entry of u belongs to, by the row's segment, times the scaling. The CPU's twin:
// kernels/cpu/low_rank_rows.cpp; the reference: MoeLoraLinearImpl::forward_reference.
//
// Entries of u are treated kEntries at a time: up to that rank each input is read once from memory. Blocks of the same
// rows and other entries are neighbours in the grid, so that what they read again comes from the cache.

#include "dropout.cuh"
#include "row_values.cuh"

namespace moelora::device {

constexpr int kEntries = 16;
constexpr uint32 kProjectionThreads = 256;
constexpr int kWarps = kProjectionThreads / kWarp;

/// What makes the masks of a block's rows, in shared memory: the first `kRows` threads draw one each before a barrier.
template <int kRows>
struct MaskKeys {
  uint32 words[2 * kRows];

  MOELORA_DEVICE void draw(const KeyedMask& mask, int64 row, int64 rows) {
    if (row < rows) {
      const RowMask of_row = mask.row(row);
      words[2 * thread()] = of_row.low;
      words[2 * thread() + 1] = of_row.high;
    }
  }
  MOELORA_DEVICE RowMask row(const KeyedMask& mask, uint32 place) const {
    return {words[2 * place], words[2 * place + 1], mask.threshold, mask.scale};
  }
};

/// u, or the gradient of w ⊙ u: [rows, rank], as the sum of `parts` such arrays.
struct Inner {
  const float* values;
  int64 part;  // elements of a part
  int32 parts;
  int32 rank;

  MOELORA_DEVICE float at(int64 row, int32 entry) const {
    const float* place = values + row * rank + entry;
    float sum = *place;
    for (int32 i = 1; i < parts; ++i) {
      sum += place[i * part];
    }
    return sum;
  }
};

/// w. Without `omega` there is one expert.
struct EntryWeights {
  const float* omega;           // [segments, experts]
  const int64* segment_of_row;  // [rows]; null: each row is a segment
  int64 experts;
  float scaling;
  int32 share;  // entries of an expert

  MOELORA_DEVICE float at(int64 row, int32 entry) const {
    if (omega == nullptr) {
      return scaling;
    }
    const int64 segment = segment_of_row == nullptr ? row : segment_of_row[row];
    return omega[segment * experts + entry / share] * scaling;
  }
};

/// A or B. Of `columns` columns from `begin` on, entries first … first + kEntries - 1 are put into shared memory as
/// [entry][column]; 0 outside. By all threads of a block.
struct Factor {
  const float* values;
  int64 width;  // d_in or d_out
  int32 rank;
  int32 packed;  // every fourth element of a row is aligned to four

  template <bool kEntriesInner, int kColumns>
  MOELORA_DEVICE void stage(int64 begin, int32 first, float* shared) const {
    constexpr int kStride = kColumns + kPack;
    constexpr int kQuads = kColumns * kEntries / kPack;
    MOELORA_UNROLL_TWICE
    for (int i = 0; i < kQuads; i += kProjectionThreads) {
      const int quad = i + static_cast<int>(thread());
      float four[kPack];
      if (kEntriesInner) {
        const int column = quad / (kEntries / kPack);
        const int entry = quad % (kEntries / kPack) * kPack;
        const bool inside = begin + column < width;
        load_columns(values + (begin + column) * rank, first + entry, inside ? rank : 0, packed, four);
        MOELORA_UNROLL
        for (int k = 0; k < kPack; ++k) {
          shared[(entry + k) * kStride + column] = four[k];
        }
      } else {
        const int entry = quad / (kColumns / kPack);
        const int column = quad % (kColumns / kPack) * kPack;
        const bool inside = first + entry < rank;
        load_columns(values + (first + entry) * width, begin + column, inside ? width : 0, packed, four);
        store_pack<kPack>(shared + entry * kStride + column, four);
      }
    }
  }
};

/// u = drop(x) A^T (n = 0) or x B, the gradient of w ⊙ u (n = 1). x [rows, width] is read once for kEntries entries;
/// the mask is drawn in registers. A warp has kRows rows, a lane every 32nd group of columns of them; a block reads the
/// factor once for 32 rows. Where rows are few, their columns are divided among `blocks_y` blocks, each with a part of
/// u.
template <typename T, int n>
struct ProjectDown {
  static constexpr const char* kName = "ProjectDown";
  static constexpr const char* kFile = "low_rank.cuh";
  static constexpr uint32 kThreads = kProjectionThreads;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr bool kBarriers = true;
  static constexpr int kRows = 4;
  static constexpr int kBlockRows = kRows * kWarps;
  static constexpr int kColumns = 256;

  const T* x;
  int64 packed;  // as in load_columns; parameters have no padding
  Factor factor;
  KeyedMask mask;
  int64 rows;
  int64 part_width;  // columns of a part, a multiple of kColumns
  float* u;          // [parts, rows, rank]

  MOELORA_DEVICE void operator()() const {
    alignas(16) MOELORA_SHARED float shared[kWarps * kWarp * (kWarp + 1)];
    MOELORA_SHARED MaskKeys<kBlockRows> keys;
    const uint32 tiles = static_cast<uint32>((factor.rank + kEntries - 1) / kEntries);
    const int32 first_entry = static_cast<int32>(block() % tiles) * kEntries;
    const int64 first_row = static_cast<int64>(block() / tiles) * kBlockRows + warp() * kRows;
    const int64 begin = block_y() * part_width;
    const int64 end = begin + part_width < factor.width ? begin + part_width : factor.width;
    if (n == 0 && thread() < kBlockRows) {
      keys.draw(mask, static_cast<int64>(block() / tiles) * kBlockRows + thread(), rows);
    }
    float sums[kRows][kEntries] = {};
    for (int64 chunk = begin; chunk < end; chunk += kColumns) {
      barrier();
      factor.template stage<n == 1, kColumns>(chunk, first_entry, shared);
      barrier();
      MOELORA_NO_UNROLL
      for (int step = 0; step < kColumns; step += kWarp * kPack) {
        const int place = step + static_cast<int>(lane()) * kPack;
        float values[kRows][kPack];
        MOELORA_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const int64 row = first_row + r;
          load_columns(x + row * factor.width, chunk + place, row < rows ? end : 0, packed, values[r]);
        }
        if (n == 0 && mask.draw_of_row != nullptr) {
          MOELORA_UNROLL
          for (int r = 0; r < kRows; ++r) {
            keys.row(mask, warp() * kRows + r).drop(static_cast<uint32>(chunk + place), values[r]);
          }
        }
        MOELORA_UNROLL
        for (int k = 0; k < kEntries; ++k) {
          float four[kPack];
          load_pack<kPack>(shared + k * (kColumns + kPack) + place, four);
          MOELORA_UNROLL
          for (int r = 0; r < kRows; ++r) {
            MOELORA_UNROLL
            for (int i = 0; i < kPack; ++i) {
              sums[r][k] += values[r][i] * four[i];
            }
          }
        }
      }
    }
    add_lanes(sums, shared, first_row, first_entry);
  }

 private:
  // The sum over lanes of 32 numbers at a time: lane i adds what all lanes have of the i-th.
  MOELORA_DEVICE void add_lanes(const float (&sums)[kRows][kEntries], float* shared, int64 first_row,
                                int32 first_entry) const {
    constexpr int kRowsAtOnce = kWarp / kEntries;
    float* own = shared + warp() * kWarp * (kWarp + 1);
    MOELORA_UNROLL
    for (int begin = 0; begin < kRows; begin += kRowsAtOnce) {
      barrier();
      MOELORA_UNROLL
      for (int i = 0; i < static_cast<int>(kWarp); ++i) {
        own[i * (kWarp + 1) + lane()] = sums[begin + i / kEntries][i % kEntries];
      }
      barrier();
      float sum = 0.0f;
      for (uint32 i = 0; i < kWarp; ++i) {
        sum += own[lane() * (kWarp + 1) + i];
      }
      const int64 row = first_row + begin + lane() / kEntries;
      const int32 entry = first_entry + static_cast<int32>(lane() % kEntries);
      if (row < rows && entry < factor.rank) {
        u[(block_y() * rows + row) * factor.rank + entry] = sum;
      }
    }
  }
};

/// What a block of 64 rows and 128 columns of (w ⊙ u) · factor has: 8 rows for each warp, kPack columns for each lane.
struct UpTile {
  static constexpr int kRows = 8;
  static constexpr int kBlockRows = kRows * kWarps;
  static constexpr int kColumns = kWarp * kPack;
  static constexpr int kSharedFloats = kBlockRows * kEntries + kEntries * (kColumns + kPack);

  Inner inner;
  EntryWeights weights;
  Factor factor;
  int64 rows;

  MOELORA_DEVICE int64 first_row() const { return static_cast<int64>(block_y()) * kBlockRows; }
  MOELORA_DEVICE int64 first_column() const { return static_cast<int64>(block()) * kColumns; }

  /// The products of first_row() + 8 · warp() … and first_column() + 4 · lane() …. u, unless null: receives the sum of
  /// the parts of `inner`.
  template <bool kEntriesInner>
  MOELORA_DEVICE void products(float* shared, float* u, float (&sums)[kRows][kPack]) const {
    float* weighed = shared;  // [kBlockRows][kEntries]
    float* staged = shared + kBlockRows * kEntries;
    for (int32 first = 0; first < factor.rank; first += kEntries) {
      barrier();
      MOELORA_UNROLL
      for (int i = 0; i < kBlockRows * kEntries; i += kProjectionThreads) {
        const int place = i + static_cast<int>(thread());
        const int64 row = first_row() + place / kEntries;
        const int32 entry = first + place % kEntries;
        float value = 0.0f;
        if (row < rows && entry < factor.rank) {
          value = inner.at(row, entry);
          if (u != nullptr && block() == 0) {
            u[row * factor.rank + entry] = value;
          }
          value *= weights.at(row, entry);
        }
        weighed[place] = value;
      }
      factor.template stage<kEntriesInner, kColumns>(first_column(), first, staged);
      barrier();
      MOELORA_UNROLL
      for (int k = 0; k < kEntries; k += kPack) {
        float columns[kPack][kPack];
        MOELORA_UNROLL
        for (int j = 0; j < kPack; ++j) {
          load_pack<kPack>(staged + (k + j) * (kColumns + kPack) + lane() * kPack, columns[j]);
        }
        MOELORA_UNROLL
        for (int r = 0; r < kRows; ++r) {
          float entries[kPack];
          load_pack<kPack>(weighed + (warp() * kRows + r) * kEntries + k, entries);
          MOELORA_UNROLL
          for (int j = 0; j < kPack; ++j) {
            MOELORA_UNROLL
            for (int i = 0; i < kPack; ++i) {
              sums[r][i] += entries[j] * columns[j][i];
            }
          }
        }
      }
    }
  }
};

/// y = bias + (w ⊙ u) B^T. Writes y once; the product of the frozen weight is then accumulated into it (beta = 1). That
/// product reads y behind its arithmetic, which it waits for anyway; the other way round this kernel would read and
/// write y, and both would count. Rows of few blocks' worth come with u in parts, whose sum is written to `u`.
template <typename T>
struct ProjectUp {
  static constexpr const char* kName = "ProjectUp";
  static constexpr const char* kFile = "low_rank.cuh";
  static constexpr uint32 kThreads = kProjectionThreads;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr bool kBarriers = true;

  UpTile tile;
  const T* bias;  // [width], or null
  T* y;           // [rows, width]
  float* u;       // [rows, rank], or null
  int64 packed;

  MOELORA_DEVICE void operator()() const {
    alignas(16) MOELORA_SHARED float shared[UpTile::kSharedFloats];
    const int64 width = tile.factor.width;
    const int64 column = tile.first_column() + lane() * kPack;
    float sums[UpTile::kRows][kPack] = {};
    tile.products<true>(shared, u, sums);
    float shift[kPack];
    load_columns(bias, column, bias == nullptr ? 0 : width, packed, shift);
    MOELORA_UNROLL
    for (int r = 0; r < UpTile::kRows; ++r) {
      const int64 row = tile.first_row() + warp() * UpTile::kRows + r;
      MOELORA_UNROLL
      for (int i = 0; i < kPack; ++i) {
        sums[r][i] += shift[i];
      }
      store_columns(y + row * width, column, row < tile.rows ? width : 0, packed, sums[r]);
    }
  }
};

/// dx := (dx + mask ⊙ (w ⊙ dv) A) · gelu'(x), the derivative only where `x` is not null: dx holds the frozen weight's
/// part already. Reads and writes dx once, reads x once.
template <typename T>
struct AddInputGradient {
  static constexpr const char* kName = "AddInputGradient";
  static constexpr const char* kFile = "low_rank.cuh";
  static constexpr uint32 kThreads = kProjectionThreads;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr bool kBarriers = true;

  UpTile tile;
  KeyedMask mask;
  const T* x;  // [rows, width]: what GELU was applied to, or null
  T* dx;       // [rows, width]
  int64 packed;

  MOELORA_DEVICE void operator()() const {
    alignas(16) MOELORA_SHARED float shared[UpTile::kSharedFloats];
    MOELORA_SHARED MaskKeys<UpTile::kBlockRows> keys;
    const int64 width = tile.factor.width;
    const int64 column = tile.first_column() + lane() * kPack;
    if (thread() < UpTile::kBlockRows) {
      keys.draw(mask, tile.first_row() + thread(), tile.rows);
    }
    float sums[UpTile::kRows][kPack] = {};
    tile.products<false>(shared, nullptr, sums);
    MOELORA_UNROLL
    for (int r = 0; r < UpTile::kRows; ++r) {
      const uint32 place = warp() * UpTile::kRows + r;
      const int64 row = tile.first_row() + place;
      const int64 end = row < tile.rows ? width : 0;
      float values[kPack];
      load_columns(dx + row * width, column, end, packed, values);
      if (mask.draw_of_row != nullptr) {
        keys.row(mask, place).drop(static_cast<uint32>(column), sums[r]);
      }
      MOELORA_UNROLL
      for (int i = 0; i < kPack; ++i) {
        values[i] += sums[r][i];
      }
      if (x != nullptr) {
        float inputs[kPack];
        load_columns(x + row * width, column, end, packed, inputs);
        MOELORA_UNROLL
        for (int i = 0; i < kPack; ++i) {
          values[i] *= gelu_derivative(inputs[i]);
        }
      }
      store_columns(dx + row * width, column, end, packed, values);
    }
  }
};

}  // namespace moelora::device
