#include "adapter/low_rank_rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "nn/gemm.h"
#include "nn/row_kernels.h"

namespace moelora {
namespace {

using nn::gemm;
using nn::Op;

// Rows of a block: 1 MiB of the wider side, half of a usual L2 cache.
std::int64_t block_rows(std::int64_t d_in, std::int64_t d_out) {
  return std::clamp<std::int64_t>((256 << 10) / std::max(d_in, d_out), 8, 64);
}

struct Sizes {
  std::int64_t rows, rank, d_in, d_out, block;
  explicit Sizes(const LowRankCall& call)
      : rows(call.segment_of_row.size(0)),
        rank(call.A.size(0)),
        d_in(call.A.size(1)),
        d_out(call.B.size(0)),
        block(block_rows(d_in, d_out)) {}
  std::int64_t blocks() const { return (rows + block - 1) / block; }
};

// to = from ⊙ diagonal of the row's segment, for `count` rows from `begin` on.
void weigh_rows(const LowRankCall& call, const float* from, std::int64_t begin, std::int64_t count, std::int64_t rank,
                float* to) {
  const auto* segment = call.segment_of_row.const_data_ptr<std::int64_t>();
  const auto* diagonal = call.diagonal.const_data_ptr<float>();
  for (std::int64_t row = 0; row < count; ++row) {
    const float* weights = diagonal + segment[begin + row] * rank;
    for (std::int64_t c = 0; c < rank; ++c) {
      to[row * rank + c] = from[row * rank + c] * weights[c];
    }
  }
}

void drop_rows(const nn::DropoutMask& mask, const float* from, std::int64_t begin, std::int64_t count,
               std::int64_t width, float* to) {
  for (std::int64_t row = 0; row < count; ++row) {
    nn::kernels::drop_row(from + row * width, to + row * width, 0, width, mask.keys[begin + row], mask.threshold,
                          mask.scale);
  }
}

}  // namespace

at::Tensor low_rank_forward(const LowRankCall& call, const at::Tensor& x, const at::Tensor& bias, at::Tensor& u) {
  const Sizes size(call);
  at::Tensor y = at::empty({size.rows, size.d_out}, x.options().requires_grad(false));
  u = at::empty({size.rows, size.rank}, y.options());
  const auto* input = x.const_data_ptr<float>();
  const auto* a = call.A.const_data_ptr<float>();
  const auto* b = call.B.const_data_ptr<float>();
  const auto* shift = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  auto* result = y.mutable_data_ptr<float>();
  auto* inner = u.mutable_data_ptr<float>();
  at::parallel_for(0, size.blocks(), 1, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> dropped(static_cast<std::size_t>(call.mask.active() ? size.block * size.d_in : 0));
    std::vector<float> weighed(static_cast<std::size_t>(size.block * size.rank));
    for (std::int64_t block = first; block < last; ++block) {
      const auto begin = block * size.block;
      const auto count = std::min(size.block, size.rows - begin);
      const float* rows = input + begin * size.d_in;
      if (call.mask.active()) {
        drop_rows(call.mask, rows, begin, count, size.d_in, dropped.data());
        rows = dropped.data();
      }
      float* u_rows = inner + begin * size.rank;
      gemm(Op::none, Op::transpose, count, size.rank, size.d_in, 1.0f, rows, size.d_in, a, size.d_in, 0.0f, u_rows,
           size.rank);
      weigh_rows(call, u_rows, begin, count, size.rank, weighed.data());
      float* y_rows = result + begin * size.d_out;
      if (shift != nullptr) {
        for (std::int64_t row = 0; row < count; ++row) {
          std::copy(shift, shift + size.d_out, y_rows + row * size.d_out);
        }
      }
      gemm(Op::none, Op::transpose, count, size.d_out, size.rank, 1.0f, weighed.data(), size.rank, b, size.rank,
           shift != nullptr ? 1.0f : 0.0f, y_rows, size.d_out);
    }
  });
  return y;
}

LowRankGradients low_rank_backward(const LowRankCall& call, const at::Tensor& dy, const nn::RowSource& x,
                                   const at::Tensor& u, bool need_dx, bool need_expert_sums) {
  const Sizes size(call);
  const auto options = dy.options().requires_grad(false);
  LowRankGradients result;
  if (need_dx) {
    result.x = at::empty({size.rows, size.d_in}, options);
  }
  if (need_expert_sums) {
    result.expert_sums = at::empty({size.rows, call.experts}, options);
  }
  const auto* a = call.A.const_data_ptr<float>();
  const auto* b = call.B.const_data_ptr<float>();
  const auto* gradient = dy.const_data_ptr<float>();
  const auto* inner = u.const_data_ptr<float>();
  auto* dx = need_dx ? result.x.mutable_data_ptr<float>() : nullptr;
  auto* sums = need_expert_sums ? result.expert_sums.mutable_data_ptr<float>() : nullptr;
  // Each thread sums its own rows; the sums are added in the order of the threads.
  std::vector<std::pair<at::Tensor, at::Tensor>> parts(static_cast<std::size_t>(at::get_num_threads()));
  at::parallel_for(0, size.blocks(), 1, [&](std::int64_t first, std::int64_t last) {
    auto& [dA, dB] = parts[static_cast<std::size_t>(at::get_thread_num())];
    dA = at::zeros({size.rank, size.d_in}, options);
    dB = at::zeros({size.d_out, size.rank}, options);
    std::vector<float> wide(static_cast<std::size_t>(size.block * size.d_in));
    std::vector<float> narrow(static_cast<std::size_t>(3 * size.block * size.rank));
    float* dv = narrow.data();
    float* du = dv + size.block * size.rank;
    float* v = du + size.block * size.rank;
    for (std::int64_t block = first; block < last; ++block) {
      const auto begin = block * size.block;
      const auto count = std::min(size.block, size.rows - begin);
      const float* dy_rows = gradient + begin * size.d_out;
      const float* u_rows = inner + begin * size.rank;
      gemm(Op::none, Op::none, count, size.rank, size.d_out, 1.0f, dy_rows, size.d_out, b, size.rank, 0.0f, dv,
           size.rank);
      weigh_rows(call, dv, begin, count, size.rank, du);
      weigh_rows(call, u_rows, begin, count, size.rank, v);
      gemm(Op::transpose, Op::none, size.d_out, size.rank, count, 1.0f, dy_rows, size.d_out, v, size.rank, 1.0f,
           dB.mutable_data_ptr<float>(), size.rank);
      if (sums != nullptr) {
        for (std::int64_t row = 0; row < count; ++row) {
          nn::kernels::grouped_dot_row(dv + row * size.rank, u_rows + row * size.rank, size.rank, call.experts,
                                       sums + (begin + row) * call.experts);
        }
      }
      x.some(begin, count, wide.data());
      if (call.mask.active()) {
        drop_rows(call.mask, wide.data(), begin, count, size.d_in, wide.data());
      }
      gemm(Op::transpose, Op::none, size.rank, size.d_in, count, 1.0f, du, size.rank, wide.data(), size.d_in, 1.0f,
           dA.mutable_data_ptr<float>(), size.d_in);
      if (dx != nullptr) {
        float* dx_rows = dx + begin * size.d_in;
        gemm(Op::none, Op::none, count, size.d_in, size.rank, 1.0f, du, size.rank, a, size.d_in, 0.0f, dx_rows,
             size.d_in);
        if (call.mask.active()) {
          drop_rows(call.mask, dx_rows, begin, count, size.d_in, dx_rows);
        }
      }
    }
  });
  for (const auto& [dA, dB] : parts) {
    if (dA.defined()) {
      result.A = result.A.defined() ? result.A.add_(dA) : dA;
      result.B = result.B.defined() ? result.B.add_(dB) : dB;
    }
  }
  return result;
}

}  // namespace moelora
