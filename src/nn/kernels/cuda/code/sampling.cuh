#pragma once
// The next token of each sequence from its logits (model/sampling.h): the first of the largest, or drawn after
// temperature, top_k and top_p. The CPU sorts the vocabulary; here the place in that order is found by bisection over
// the bits of the logits, which sums weights in fixed point: exact, so that the order of the sum does not matter.

#include "elements.cuh"
#include "random.cuh"

namespace moelora::device {

/// Bits of fp32 that elements of a type never use: their order needs no more than the others.
template <typename T>
struct UnusedBits {
  static constexpr int kCount = 0;
};
template <>
struct UnusedBits<Half> {
  static constexpr int kCount = 13;
};
template <>
struct UnusedBits<BFloat16> {
  static constexpr int kCount = 16;
};

/// A number for each finite logit that orders them; zeros of both signs are one.
template <typename T>
MOELORA_DEVICE uint32 order_of(float x) {
  const uint32 bits = x == 0.0f ? 0u : bits_of(x);
  return ((bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u) >> UnusedBits<T>::kCount;
}
template <typename T>
MOELORA_DEVICE float of_order(uint32 order) {
  const uint32 bits = order << UnusedBits<T>::kCount;
  return float_of((bits & 0x80000000u) != 0u ? bits & 0x7fffffffu : ~bits & ~((1u << UnusedBits<T>::kCount) - 1u));
}

/// A block for each sequence. Greedy: reads the logits once. Drawn: once more for each bit and each of top_k, top_p and
/// the draw, from the card's cache.
template <typename T>
struct ChooseTokens {
  static constexpr const char* kName = "ChooseTokens";
  static constexpr const char* kFile = "sampling.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;

  const T* logits;  // [rows, vocab]
  int64 vocab;
  int64 packed;  // vocab is a multiple of kPack, and rows are aligned to it
  int64 sample;
  double temperature;
  int64 top_k;  // 0: all
  double top_p;
  int64 rows;
  int64 axes;
  uint64* states;         // [rows]: of each sequence's random stream; null if greedy
  int64* ids;             // [rows]: the chosen tokens, with which the next step begins
  int64* positions;       // [axes, rows]: of the next step, moved on by steps
  const int64* steps;     // [axes, rows]
  int64* chosen_or_flag;  // [2, rows] for the host: the chosen tokens; 1 where logits are NaN or infinite

  static constexpr int kPack = 4;
  static constexpr int kBits = 32 - UnusedBits<T>::kCount;

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED Shared shared;
    const T* row = logits + block() * vocab;
    Best best{float_of(0xff800000u), vocab, 0};
    each(row, [&](int64 i, float x) { best.see(x, i); });
    best = largest_of_block(best, shared);
    int64 token = best.index;
    const bool finite = best.not_finite == 0;
    if (sample != 0 && finite) {
      token = draw(row, best.value, shared);
    }
    if (thread() == 0) {
      const int64 at = block();
      ids[at] = finite ? token : 0;
      chosen_or_flag[at] = ids[at];
      chosen_or_flag[rows + at] = finite ? 0 : 1;
      for (int64 axis = 0; axis < axes; ++axis) {
        positions[axis * rows + at] += steps[axis * rows + at];
      }
      if (sample != 0) {
        states[at] += kSplitMixStep;
      }
    }
  }

 private:
  struct Best {
    float value;
    int64 index;
    int32 not_finite;

    MOELORA_DEVICE void see(float x, int64 i) {
      not_finite |= (bits_of(x) & 0x7f800000u) == 0x7f800000u ? 1 : 0;
      if (x > value) {
        value = x;
        index = i;
      }
    }
    MOELORA_DEVICE void join(const Best& other) {
      not_finite |= other.not_finite;
      if (other.value > value || (other.value == value && other.index < index)) {
        value = other.value;
        index = other.index;
      }
    }
  };

  struct Shared {
    Best best[kThreads / kWarp];
    uint64 sums[kThreads / kWarp];
    int32 ties[kThreads];
    int64 token;
  };

  /// use(index, logit) for all logits of the row; each thread sees its own in ascending order.
  template <typename Use>
  MOELORA_DEVICE void each(const T* row, const Use& use) const {
    if (packed != 0) {
      for (int64 i = kPack * static_cast<int64>(thread()); i < vocab; i += kPack * kThreads) {
        float x[kPack];
        load_pack<kPack>(row + i, x);
        MOELORA_UNROLL
        for (int k = 0; k < kPack; ++k) {
          use(i + k, x[k]);
        }
      }
    } else {
      for (int64 i = thread(); i < vocab; i += kThreads) {
        use(i, load(row + i));
      }
    }
  }

  MOELORA_DEVICE static Best largest_of_block(Best best, Shared& shared) {
    MOELORA_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
      best.join({shuffle_xor(best.value, mask), shuffle_xor(static_cast<int32>(best.index), mask),
                 shuffle_xor(best.not_finite, mask)});
    }
    if (lane() == 0) {
      shared.best[warp()] = best;
    }
    barrier();
    best = shared.best[0];
    for (uint32 i = 1; i < kThreads / kWarp; ++i) {
      best.join(shared.best[i]);
    }
    return best;
  }

  MOELORA_DEVICE static uint64 sum_of_block(uint64 value, Shared& shared) {
    MOELORA_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
      const auto low = static_cast<uint32>(shuffle_xor(static_cast<int32>(value & 0xffffffffull), mask));
      const auto high = static_cast<uint32>(shuffle_xor(static_cast<int32>(value >> 32), mask));
      value += static_cast<uint64>(high) << 32 | low;
    }
    barrier();  // the sum before this one has been read
    if (lane() == 0) {
      shared.sums[warp()] = value;
    }
    barrier();
    uint64 sum = 0;
    for (uint32 i = 0; i < kThreads / kWarp; ++i) {
      sum += shared.sums[i];
    }
    return sum;
  }

  // exp((x - largest) / temperature) in units of 2^-40.
  MOELORA_DEVICE uint64 weight(float x, float largest) const {
    return static_cast<uint64>(exponential((x - largest) / static_cast<float>(temperature)) * 1099511627776.0f);
  }

  // Tokens from the largest logit down to some place: all whose order is above `order`, and the first `ties` of those
  // that have it.
  struct Head {
    uint32 order;
    uint64 ties;
    uint64 sum;  // of all of them
  };

  // The count or the weight of all tokens whose order is `from` or more.
  MOELORA_DEVICE uint64 measure(const T* row, uint32 from, bool weigh, float largest, Shared& shared) const {
    uint64 sum = 0;
    each(row, [&](int64, float x) {
      if (order_of<T>(x) >= from) {
        sum += weigh ? weight(x, largest) : 1u;
      }
    });
    return sum_of_block(sum, shared);
  }

  // The shortest head whose sum is `target` or more; all tokens together have as much.
  MOELORA_DEVICE Head shortest(const T* row, uint64 target, bool weigh, float largest, Shared& shared) const {
    uint32 order = 0;
    uint64 above = 0;
    for (int bit = kBits - 1; bit >= -1; --bit) {
      const uint32 from = bit >= 0 ? order | 1u << bit : order + 1;
      above = measure(row, from, weigh, largest, shared);
      order = bit >= 0 && above >= target ? from : order;
    }
    const uint64 one = weigh ? weight(of_order<T>(order), largest) : 1u;
    const uint64 ties = (target - above + one - 1) / one;
    return {order, ties, above + ties * one};
  }

  MOELORA_DEVICE int64 draw(const T* row, float largest, Shared& shared) const {
    Head head{0, 0, 0};
    uint64 total = 0;
    MOELORA_NO_UNROLL
    for (int stage = 0; stage < 3; ++stage) {  // top_k, top_p, the draw
      uint64 target = 0;
      if (stage == 0) {
        target = top_k > 0 && top_k < vocab ? static_cast<uint64>(top_k) : 0;
      } else if (stage == 1) {
        // No finite number has order 0: without top_k the head is empty, and all tokens are above it.
        total = measure(row, head.order + 1, true, largest, shared) +
                (head.ties > 0 ? head.ties * weight(of_order<T>(head.order), largest) : 0);
        const double wanted = top_p * static_cast<double>(total);
        target = static_cast<uint64>(wanted);
        target += static_cast<double>(target) < wanted ? 1 : 0;
        target = top_p >= 1.0 ? 0 : target < 1 ? 1 : target > total ? total : target;
      } else {
        const double uniform = static_cast<double>(splitmix_output(states[block()] + kSplitMixStep) >> 11) * 0x1.0p-53;
        const uint64 before = static_cast<uint64>(uniform * static_cast<double>(total));
        target = before < total ? before + 1 : total;
      }
      if (target > 0) {
        head = shortest(row, target, stage > 0, largest, shared);
        total = head.sum;
      }
    }
    return find(row, head.order, head.ties, shared);
  }

  // The token of the given order that is the number-th by index, counted from 1.
  MOELORA_DEVICE int64 find(const T* row, uint32 order, uint64 number, Shared& shared) const {
    const int64 share = (vocab + kThreads - 1) / kThreads;
    const int64 begin = thread() * share;
    const int64 end = begin + share < vocab ? begin + share : vocab;
    int32 own = 0;
    for (int64 i = begin; i < end; ++i) {
      own += order_of<T>(load(row + i)) == order ? 1 : 0;
    }
    shared.ties[thread()] = own;
    barrier();
    uint64 before = 0;
    for (uint32 i = 0; i < thread(); ++i) {
      before += static_cast<uint64>(shared.ties[i]);
    }
    if (before < number && number <= before + static_cast<uint64>(own)) {
      for (int64 i = begin; i < end; ++i) {
        before += order_of<T>(load(row + i)) == order ? 1u : 0u;
        if (before == number) {
          shared.token = i;
          break;
        }
      }
    }
    barrier();
    return shared.token;
  }
};

}  // namespace moelora::device
