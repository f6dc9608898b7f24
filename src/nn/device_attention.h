#pragma once
// Attention over packed rows by LibTorch's kernels of variable length: two calls a layer, whatever the number of
// segments, and no mask tensors.
//
// Call 1, over parts: the bidirectional rows of each segment see each other, and so do its causal rows. Right for the
// former. Call 2, over the causal rows alone: their queries, gathered, see their whole segments, causally, aligned at
// the bottom right. Its results take the places of what call 1 made of those rows; in backward, what call 1 left at
// causal rows is of no other row and is not read. A batch that has only one kind of rows needs one of the calls.

#include "moelora/nn/attention.h"

namespace moelora::nn {

// On GPUs of compute capability 8.0 and later flash attention takes fp16 and bf16; elsewhere (V100), for fp32 and for
// batches that it can't take, the memory-efficient kernels do, which any GPU since 5.0 has (bf16: since 8.0).

enum class AttentionKernels { automatic, memory_efficient, flash };
/// For tests and measurements: which kernels this process uses from here on.
void choose_attention_kernels(AttentionKernels kernels);

/// Whether q's device has these kernels, and they take q, k and v [rows, heads, head_dim].
bool has_device_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

/// attention_forward and attention_backward of moelora/nn/attention.h, without a prefix. `rows.tables` must be there.
AttentionResult device_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const AttentionTables& tables, const at::Tensor& output_rows);
void device_attention_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const AttentionResult& result, const AttentionTables& tables,
                               const at::Tensor& output_rows, const at::Tensor& dq, const at::Tensor& dk,
                               const at::Tensor& dv);

}  // namespace moelora::nn
