#pragma once
// Decoding with keys and values in pages: rows are stored into pages, and one new row of each sequence attends to all
// that are stored. A page holds kPageRows rows of one sequence, of all layers: [layers, 2, kv_heads, kPageRows, d],
// keys before values. The table has the pages' addresses, so that more of them come without moving any.

#include "elements.cuh"

namespace moelora::device {

constexpr int64 kPageRows = 64;

/// One layer's part of all pages.
template <typename T>
struct PagedLayer {
  const int64* table;  // [sequences, pages]: where each page begins
  int64 pages;         // of a sequence, at most
  int64 begin;         // elements of a page in front of this layer's keys
  int64 kv_heads;
  int64 d;

  MOELORA_DEVICE T* key(int64 entry, int64 row, int64 head) const {
    return reinterpret_cast<T*>(table[entry]) + begin + (head * kPageRows + row) * d;
  }
  MOELORA_DEVICE T* value(int64 entry, int64 row, int64 head) const {
    return key(entry, row, head) + kv_heads * kPageRows * d;
  }
};

/// Where head h of row r begins: [rows, heads, d] with a unit last stride.
template <typename T>
struct Heads {
  const T* data;
  int64 row_stride;
  int64 head_stride;
  MOELORA_DEVICE const T* at(int64 row, int64 head) const { return data + row * row_stride + head * head_stride; }
};

/// Rows of a prompt into their pages; a row for each block. Reads k and v once, writes them once.
template <typename T>
struct StoreRows {
  static constexpr const char* kName = "StoreRows";
  static constexpr const char* kFile = "decode_attention.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  Heads<T> k;  // [source_rows, kv_heads, d]; row i is row i % source_rows of it
  Heads<T> v;
  int64 source_rows;
  const int64* places;  // [rows]: entry of the table · kPageRows + row in the page
  PagedLayer<T> layer;
  int64 packed;  // all rows and heads begin at multiples of kPack elements, and so does d

  static constexpr int kPack = 4;

  MOELORA_DEVICE void operator()() const {
    const int64 source = block() % source_rows;
    const int64 entry = places[block()] / kPageRows;
    const int64 row = places[block()] % kPageRows;
    const uint32 d = static_cast<uint32>(layer.d);
    const uint32 step = packed != 0 ? kPack : 1;
    const uint32 width = static_cast<uint32>(layer.kv_heads) * d;
    for (uint32 i = step * thread(); i < width; i += step * kThreads) {
      const uint32 head = i / d;
      const uint32 c = i % d;
      const T* from_k = k.at(source, head) + c;
      const T* from_v = v.at(source, head) + c;
      T* to_k = layer.key(entry, row, head) + c;
      T* to_v = layer.value(entry, row, head) + c;
      if (packed != 0) {
        *reinterpret_cast<Pack<T, kPack>*>(to_k) = *reinterpret_cast<const Pack<T, kPack>*>(from_k);
        *reinterpret_cast<Pack<T, kPack>*>(to_v) = *reinterpret_cast<const Pack<T, kPack>*>(from_v);
      } else {
        *to_k = *from_k;
        *to_v = *from_v;
      }
    }
  }
};

/// Rotary positions (nn/rotary.h) of queries and keys as they are read; without tables nothing turns.
struct Turn {
  const float* cos;  // [rows, columns], or null
  const float* sin;
  int64 columns;      // of a head that turn, the first ones
  int64 span;         // pairs lie within so many columns
  int64 interleaved;  // 2i and 2i + 1, else i and i + span / 2 of each span

  template <typename T>
  MOELORA_DEVICE float operator()(const T* head, int64 row, int64 c) const {
    const float own = load(head + c);
    if (cos == nullptr || c >= columns) {
      return own;
    }
    const int64 in_span = c % span;
    const bool first = interleaved != 0 ? c % 2 == 0 : in_span < span / 2;
    const int64 distance = interleaved != 0 ? 1 : span / 2;
    const float other = load(head + (first ? c + distance : c - distance));
    const float turned = other * sin[row * columns + c];
    return own * cos[row * columns + c] + (first ? -turned : turned);
  }
};

/// Appends a new row of each sequence and attends to all its rows, in splits of kSplitRows: a block for each (row,
/// head) (x) and split (y). How a row is split depends on its own length alone, and so do its bits. Reads the stored
/// rows once from memory (heads of a group share them in the cache of the card) and writes one row. n: elements of a
/// head that a lane holds, d <= 32 n, a multiple of n.
template <typename T, int n>
struct DecodeAttention {
  static constexpr const char* kName = "DecodeAttention";
  static constexpr const char* kFile = "decode_attention.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;
  static constexpr int64 kSplitRows = 2 * kPageRows;

  Heads<T> q;  // [rows, heads, d]
  Heads<T> k;  // [rows, kv_heads, d]
  Heads<T> v;
  Turn turn;
  const int32* counts;  // [rows]: rows of each sequence that are stored already
  PagedLayer<T> layer;
  int64 heads;
  float scale;
  T* out;          // [rows, heads, d], where there is one split
  float* partial;  // [rows, heads, splits, d + 2]: weighted sum of values, largest score, sum of weights; else null

  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kAtOnce = 4;  // rows whose loads a warp has under way
  static constexpr int kMostColumns = 32 * n;

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float query[kMostColumns];
    MOELORA_SHARED float new_key[kMostColumns];
    MOELORA_SHARED float new_value[kMostColumns];
    MOELORA_SHARED float scores[kSplitRows];
    MOELORA_SHARED float sums[kWarps * kMostColumns];
    const int64 row = block() / heads;
    const int64 head = block() % heads;
    const int64 kv_head = head / (heads / layer.kv_heads);
    const int64 count = counts[row];
    const int64 begin = block_y() * kSplitRows;
    if (begin > count) {
      return;
    }
    const int64 d = layer.d;
    const int64 stored = count - begin < kSplitRows ? count - begin : kSplitRows;
    const bool newest = stored < kSplitRows;  // the new row is in this split
    const int64 entry = row * layer.pages + begin / kPageRows;
    for (int64 c = thread(); c < d; c += kThreads) {
      query[c] = turn(q.at(row, head), row, c) * scale;
      if (newest) {
        T key;
        from_float(turn(k.at(row, kv_head), row, c), key);
        const T value = v.at(row, kv_head)[c];
        new_key[c] = to_float(key);
        new_value[c] = to_float(value);
        if (head % (heads / layer.kv_heads) == 0) {
          layer.key(entry + stored / kPageRows, stored % kPageRows, kv_head)[c] = key;
          layer.value(entry + stored / kPageRows, stored % kPageRows, kv_head)[c] = value;
        }
      }
    }
    barrier();
    const int64 first = static_cast<int64>(lane()) * n;
    const bool holds = first < d;
    float own[n];
    MOELORA_UNROLL
    for (int i = 0; i < n; ++i) {
      own[i] = holds ? query[first + i] : 0.0f;
    }

    for (int64 j = warp(); j < stored; j += kAtOnce * kWarps) {
      float x[kAtOnce][n];
      MOELORA_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        const int64 at = j + u * kWarps < stored ? j + u * kWarps : j;
        read(layer.key(entry + at / kPageRows, at % kPageRows, kv_head), first, holds, x[u]);
      }
      MOELORA_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        float dot = 0.0f;
        MOELORA_UNROLL
        for (int i = 0; i < n; ++i) {
          dot += own[i] * x[u][i];
        }
        dot = warp_sum(dot);
        if (lane() == 0 && j + u * kWarps < stored) {
          scores[j + u * kWarps] = dot;
        }
      }
    }
    if (newest && warp() == kWarps - 1) {
      float dot = 0.0f;
      MOELORA_UNROLL
      for (int i = 0; i < n; ++i) {
        dot += holds ? own[i] * new_key[first + i] : 0.0f;
      }
      dot = warp_sum(dot);
      if (lane() == 0) {
        scores[stored] = dot;
      }
    }
    barrier();

    const int64 total = stored + (newest ? 1 : 0);
    float largest = float_of(0xff800000u);  // minus infinity
    for (int64 j = lane(); j < total; j += kWarp) {
      largest = scores[j] > largest ? scores[j] : largest;
    }
    largest = warp_max(largest);
    barrier();  // all have read the scores
    for (int64 j = thread(); j < total; j += kThreads) {
      scores[j] = exponential(scores[j] - largest);
    }
    barrier();
    float weights = 0.0f;
    for (int64 j = lane(); j < total; j += kWarp) {
      weights += scores[j];
    }
    weights = warp_sum(weights);

    float sum[n];
    MOELORA_UNROLL
    for (int i = 0; i < n; ++i) {
      sum[i] = newest && holds && warp() == kWarps - 1 ? scores[stored] * new_value[first + i] : 0.0f;
    }
    for (int64 j = warp(); j < stored; j += kAtOnce * kWarps) {
      float x[kAtOnce][n];
      MOELORA_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        const int64 at = j + u * kWarps < stored ? j + u * kWarps : j;
        read(layer.value(entry + at / kPageRows, at % kPageRows, kv_head), first, holds, x[u]);
      }
      MOELORA_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        const float weight = j + u * kWarps < stored ? scores[j + u * kWarps] : 0.0f;
        MOELORA_UNROLL
        for (int i = 0; i < n; ++i) {
          sum[i] += weight * x[u][i];
        }
      }
    }
    MOELORA_UNROLL
    for (int i = 0; i < n; ++i) {
      if (holds) {
        sums[warp() * kMostColumns + first + i] = sum[i];
      }
    }
    barrier();
    float* part =
        partial == nullptr ? nullptr : partial + (block() * static_cast<int64>(blocks_y()) + block_y()) * (d + 2);
    for (int64 c = thread(); c < d; c += kThreads) {
      float all = 0.0f;
      MOELORA_UNROLL
      for (int w = 0; w < kWarps; ++w) {
        all += sums[w * kMostColumns + c];
      }
      if (part == nullptr) {
        store(out + block() * d + c, all / weights);
      } else {
        part[c] = all;
      }
    }
    if (part != nullptr && thread() == 0) {
      part[d] = largest;
      part[d + 1] = weights;
    }
  }

 private:
  MOELORA_DEVICE static void read(const T* head, int64 first, bool holds, float* x) {
    if (holds) {
      load_pack<n>(head + first, x);
    } else {
      MOELORA_UNROLL
      for (int i = 0; i < n; ++i) {
        x[i] = 0.0f;
      }
    }
  }
};

/// The splits of each (row, head), a block for each, in their order.
template <typename T>
struct CombineSplits {
  static constexpr const char* kName = "CombineSplits";
  static constexpr const char* kFile = "decode_attention.cuh";
  static constexpr uint32 kThreads = 128;
  static constexpr bool kBarriers = false;

  const float* partial;  // [rows, heads, splits, d + 2]
  const int32* counts;   // [rows]: as DecodeAttention's
  T* out;                // [rows, heads, d]
  int64 heads;
  int64 splits;
  int64 d;
  int64 split_rows;

  MOELORA_DEVICE void operator()() const {
    const int64 used = counts[block() / heads] / split_rows + 1;
    const float* parts = partial + block() * splits * (d + 2);
    float largest = float_of(0xff800000u);
    for (int64 s = 0; s < used; ++s) {
      const float one = parts[s * (d + 2) + d];
      largest = one > largest ? one : largest;
    }
    for (int64 c = thread(); c < d; c += kThreads) {
      float sum = 0.0f;
      float weights = 0.0f;
      for (int64 s = 0; s < used; ++s) {
        const float* part = parts + s * (d + 2);
        const float factor = exponential(part[d] - largest);
        sum += factor * part[c];
        weights += factor * part[d + 1];
      }
      store(out + block() * d + c, sum / weights);
    }
  }
};

}  // namespace moelora::device
