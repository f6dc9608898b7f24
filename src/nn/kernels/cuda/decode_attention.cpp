#include "nn/kernels/cuda/decode_attention.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "nn/kernels/cuda/alignment.h"

namespace moelora::nn::kernels {
namespace {

constexpr std::int64_t kSplitRows = device::DecodeAttention<float, 1>::kSplitRows;

// Elements of a head that a lane holds.
int lane_elements(std::int64_t d) { return d <= 32 ? 1 : d <= 64 ? 2 : d <= 128 ? 4 : 8; }

template <typename Use>
void with_lane_elements(std::int64_t d, const Use& use) {
  switch (lane_elements(d)) {
    case 1:
      return use(std::integral_constant<int, 1>{});
    case 2:
      return use(std::integral_constant<int, 2>{});
    case 4:
      return use(std::integral_constant<int, 4>{});
    default:
      return use(std::integral_constant<int, 8>{});
  }
}

template <typename T>
device::PagedLayer<T> layer_of(const PagedKeysValues& pages) {
  return {elements<std::int64_t>(pages.table), pages.table.size(1),
          pages.layer * 2 * pages.kv_heads * device::kPageRows * pages.d, pages.kv_heads, pages.d};
}

template <typename T>
device::Heads<T> heads_of(const at::Tensor& x) {
  return {elements<T>(x), x.stride(0), x.stride(1)};
}

device::Turn turn_of(const Rotary& rotary) {
  const at::Tensor& cos = rotary.tables.cos;
  if (!cos.defined()) {
    return {nullptr, nullptr, 0, 1, 0};
  }
  const auto columns = rotary.rotary_dim();
  TORCH_INTERNAL_ASSERT(cos.scalar_type() == at::kFloat && rotary.tables.sin.scalar_type() == at::kFloat &&
                        cos.is_contiguous() && rotary.tables.sin.is_contiguous());
  return {elements<float>(cos), elements<float>(rotary.tables.sin), columns,
          rotary.pairing == RotaryPairing::two_axes ? columns / 2 : columns,
          rotary.pairing == RotaryPairing::interleaved ? 1 : 0};
}

}  // namespace

bool takes_head_width(std::int64_t d) { return d >= 1 && d <= 256 && d % lane_elements(d) == 0; }

void store_rows(const PagedKeysValues& pages, const at::Tensor& k, const at::Tensor& v, const at::Tensor& places) {
  TORCH_INTERNAL_ASSERT(k.sizes() == v.sizes() && k.size(1) == pages.kv_heads && k.size(2) == pages.d);
  TORCH_INTERNAL_ASSERT(k.stride(2) == 1 && v.stride(2) == 1 && k.scalar_type() == pages.dtype &&
                        v.scalar_type() == pages.dtype);
  TORCH_INTERNAL_ASSERT(pages.table.is_contiguous() && places.is_contiguous() && places.scalar_type() == at::kLong);
  with_element(pages.dtype, [&]<typename T>(T) {
    constexpr int kPack = device::StoreRows<T>::kPack;
    launch(k.device(),
           device::StoreRows<T>{heads_of<T>(k), heads_of<T>(v), k.size(0), elements<std::int64_t>(places),
                                layer_of<T>(pages), is_packed<kPack>(k) && is_packed<kPack>(v)},
           {static_cast<std::uint32_t>(places.size(0))});
  });
}

std::int64_t decode_splits(std::int64_t most) { return most / kSplitRows + 1; }

at::Tensor decode_attention(const PagedKeysValues& pages, const at::Tensor& counts, std::int64_t most,
                            const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Rotary& rotary) {
  const auto rows = q.size(0);
  const auto heads = q.size(1);
  const auto d = q.size(2);
  const auto splits = decode_splits(most);
  TORCH_INTERNAL_ASSERT(k.size(1) == pages.kv_heads && k.sizes() == v.sizes() && heads % pages.kv_heads == 0 &&
                        d == pages.d && takes_head_width(d));
  TORCH_INTERNAL_ASSERT(counts.is_contiguous() && counts.scalar_type() == at::kInt && counts.size(0) == rows &&
                        pages.table.is_contiguous() && pages.table.size(0) == rows &&
                        most < pages.table.size(1) * device::kPageRows);
  for (const at::Tensor& x : {q, k, v}) {
    TORCH_INTERNAL_ASSERT(x.stride(2) == 1 && x.scalar_type() == pages.dtype);
  }
  const at::Tensor out = at::empty({rows, heads, d}, q.options());
  const at::Tensor partial =
      splits > 1 ? at::empty({rows, heads, splits, d + 2}, q.options().dtype(at::kFloat)) : at::Tensor();
  const auto blocks = static_cast<std::uint32_t>(rows * heads);
  with_element(pages.dtype, [&]<typename T>(T) {
    with_lane_elements(d, [&](auto n) {
      device::DecodeAttention<T, n> attend{};
      attend.q = heads_of<T>(q);
      attend.k = heads_of<T>(k);
      attend.v = heads_of<T>(v);
      attend.turn = turn_of(rotary);
      attend.counts = elements<std::int32_t>(counts);
      attend.layer = layer_of<T>(pages);
      attend.heads = heads;
      attend.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
      attend.out = mutable_elements<T>(out);
      attend.partial = mutable_elements<float>(partial);
      launch(q.device(), attend, {blocks, static_cast<std::uint32_t>(splits)});
    });
    if (splits > 1) {
      launch(q.device(),
             device::CombineSplits<T>{elements<float>(partial), elements<std::int32_t>(counts),
                                      mutable_elements<T>(out), heads, splits, d, kSplitRows},
             {blocks});
    }
  });
  return out;
}

std::vector<KernelInfo> decode_attention_kernels() {
  std::vector<KernelInfo> all;
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    with_element(type, [&]<typename T>(T) {
      all.push_back(kernel_info<device::StoreRows<T>>());
      all.push_back(kernel_info<device::CombineSplits<T>>());
      for (const std::int64_t d : {32, 64, 128, 256}) {
        with_lane_elements(d, [&](auto n) { all.push_back(kernel_info<device::DecodeAttention<T, n>>()); });
      }
    });
  }
  return all;
}

}  // namespace moelora::nn::kernels
