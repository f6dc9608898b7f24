#include "adapter/low_rank_rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "nn/gemm.h"
#include "nn/row_loops.h"

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

namespace {

/// The part of the backward that one thread computes, block by block.
class BackwardBlocks {
 public:
  BackwardBlocks(const LowRankCall& call, const Sizes& size, const nn::RowSource& x, const at::Tensor& dy,
                 const at::Tensor& u, const at::Tensor& dx, const at::Tensor& expert_sums)
      : dA(call.trains ? at::zeros({size.rank, size.d_in}, dy.options()) : at::Tensor()),
        dB(call.trains ? at::zeros({size.d_out, size.rank}, dy.options()) : at::Tensor()),
        call_(call),
        size_(size),
        x_(x),
        dy_(dy.const_data_ptr<float>()),
        u_(u.const_data_ptr<float>()),
        dx_(dx.defined() ? dx.mutable_data_ptr<float>() : nullptr),
        sums_(expert_sums.defined() ? expert_sums.mutable_data_ptr<float>() : nullptr),
        dv_(floats(size.rank)),
        du_(floats(size.rank)),
        v_(floats(size.rank)),
        rows_(floats(size.d_in)) {
    if (dx_ != nullptr) {
      update_ = floats(size.d_in);
      if (x.chains()) {
        slope_ = floats(size.d_in);
      }
      if (call.mask.active()) {
        kept_.resize(static_cast<std::size_t>(size.block * size.d_in));
      }
    }
  }

  void run(std::int64_t begin, std::int64_t count) {
    const auto rank = size_.rank;
    const float* dy_rows = dy_ + begin * size_.d_out;
    const float* u_rows = u_ + begin * rank;
    gemm(Op::none, Op::none, count, rank, size_.d_out, 1.0f, dy_rows, size_.d_out, call_.B.const_data_ptr<float>(),
         rank, 0.0f, dv_.data(), rank);
    weigh_rows(call_, dv_.data(), begin, count, rank, du_.data());
    if (call_.trains) {
      weigh_rows(call_, u_rows, begin, count, rank, v_.data());
      gemm(Op::transpose, Op::none, size_.d_out, rank, count, 1.0f, dy_rows, size_.d_out, v_.data(), rank, 1.0f,
           dB.mutable_data_ptr<float>(), rank);
    }
    for (std::int64_t row = 0; sums_ != nullptr && row < count; ++row) {
      nn::kernels::grouped_dot_row(dv_.data() + row * rank, u_rows + row * rank, rank, call_.experts,
                                   sums_ + (begin + row) * call_.experts);
    }
    if (call_.trains || !slope_.empty() || !kept_.empty()) {
      make_rows(begin, count);
    }
    if (call_.trains) {
      gemm(Op::transpose, Op::none, rank, size_.d_in, count, 1.0f, du_.data(), rank, rows_.data(), size_.d_in, 1.0f,
           dA.mutable_data_ptr<float>(), size_.d_in);
    }
    if (dx_ != nullptr) {
      finish_dx(begin, count);
    }
  }

  at::Tensor dA;  ///< Sums over the rows seen; undefined unless the call trains.
  at::Tensor dB;

 private:
  std::vector<float> floats(std::int64_t width) const {
    return std::vector<float>(static_cast<std::size_t>(size_.block * width));
  }

  // The dropped input of a block, and what finish_dx wants to know of it.
  void make_rows(std::int64_t begin, std::int64_t count) {
    if (slope_.empty()) {
      x_.some(begin, count, rows_.data());
    } else {
      x_.some_with_slope(begin, count, rows_.data(), slope_.data());
    }
    if (kept_.empty()) {
      if (call_.mask.active()) {
        drop_rows(call_.mask, rows_.data(), begin, count, size_.d_in, rows_.data());
      }
      return;
    }
    for (std::int64_t row = 0; row < count; ++row) {
      float* values = rows_.data() + row * size_.d_in;
      nn::kernels::drop_row_and_note(values, values, size_.d_in, call_.mask.keys[begin + row], call_.mask.threshold,
                                     call_.mask.scale, kept_.data() + row * size_.d_in);
    }
  }

  void finish_dx(std::int64_t begin, std::int64_t count) {
    const auto width = size_.d_in;
    gemm(Op::none, Op::none, count, width, size_.rank, 1.0f, du_.data(), size_.rank, call_.A.const_data_ptr<float>(),
         width, 0.0f, update_.data(), width);
    for (std::int64_t row = 0; row < count; ++row) {
      const auto at = row * width;
      nn::kernels::finish_gradient_row(update_.data() + at, kept_.empty() ? nullptr : kept_.data() + at,
                                       call_.mask.scale, slope_.empty() ? nullptr : slope_.data() + at,
                                       dx_ + begin * width + at, width);
    }
  }

  const LowRankCall& call_;
  const Sizes& size_;
  const nn::RowSource& x_;
  const float* dy_;
  const float* u_;
  float* dx_;
  float* sums_;
  std::vector<float> dv_, du_, v_, rows_, update_, slope_;
  std::vector<std::uint8_t> kept_;
};

}  // namespace

LowRankGradients low_rank_backward(const LowRankCall& call, const at::Tensor& dy, const nn::RowSource& x,
                                   const at::Tensor& u, at::Tensor& dx, bool need_expert_sums) {
  const Sizes size(call);
  LowRankGradients result;
  if (need_expert_sums) {
    result.expert_sums = at::empty({size.rows, call.experts}, dy.options());
  }
  // Each thread sums its own rows; the sums are added in the order of the threads.
  std::vector<std::pair<at::Tensor, at::Tensor>> parts(static_cast<std::size_t>(at::get_num_threads()));
  at::parallel_for(0, size.blocks(), 1, [&](std::int64_t first, std::int64_t last) {
    BackwardBlocks blocks(call, size, x, dy, u, dx, result.expert_sums);
    for (std::int64_t block = first; block < last; ++block) {
      blocks.run(block * size.block, std::min(size.block, size.rows - block * size.block));
    }
    parts[static_cast<std::size_t>(at::get_thread_num())] = {blocks.dA, blocks.dB};
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
