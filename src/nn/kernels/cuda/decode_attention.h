#pragma once
// Decoding over keys and values in pages on a device. The CPU's twin: nn/decode_attention.h, whose keys and values lie
// in slots.

#include <vector>

#include "moelora/nn/rotary.h"
#include "nn/kernels/cuda/code/decode_attention.cuh"
#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// One layer of keys and values in pages (code/decode_attention.cuh): pages of layers · 2 · kv_heads · kPageRows · d
/// elements, whose addresses the table has.
struct PagedKeysValues {
  at::Tensor table;  ///< [sequences, pages] int64, on the device; 0 where a sequence has no such page
  at::ScalarType dtype = at::kFloat;
  std::int64_t layer = 0;
  std::int64_t kv_heads = 0;
  std::int64_t d = 0;
};

/// Whether the kernels take heads of this width: up to 256, even above 32 and a multiple of 4 (8) above 64 (128).
bool takes_head_width(std::int64_t d);

/// Stores k and v [source_rows, kv_heads, d], of the pages' dtype, in one launch: row i of `places` [rows] int64 (entry
/// of the flattened table · kPageRows + row in that page) receives row i % source_rows.
void store_rows(const PagedKeysValues& pages, const at::Tensor& k, const at::Tensor& v, const at::Tensor& places);

/// q [rows, heads, d] and k, v [rows, kv_heads, d], of the pages' dtype, with a unit last stride; q and k are turned by
/// `rotary` as they are read (fp32 tables; without tables they are rotated already, or the model has no rotary
/// positions). Row i is written behind the counts[i] rows of sequence i, whose page for it is there, and attends to all
/// counts[i] + 1 of them. counts [rows] int32 on the device; `most`: no smaller than any of them. Returns
/// [rows, heads, d] in the pages' dtype. Scores are scaled by 1/sqrt(d); all sums and the softmax are fp32, and k is
/// rounded as it is stored, but q is not. A row's bits depend on its own sequence alone. One launch, or two where
/// `most` is kSplitRows or more.
at::Tensor decode_attention(const PagedKeysValues& pages, const at::Tensor& counts, std::int64_t most,
                            const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Rotary& rotary = {});

/// Splits that decode_attention makes: what a recorded launch of it goes on to serve.
std::int64_t decode_splits(std::int64_t most);

std::vector<KernelInfo> decode_attention_kernels();

}  // namespace moelora::nn::kernels
