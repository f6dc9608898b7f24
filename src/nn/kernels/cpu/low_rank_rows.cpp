#include "nn/kernels/cpu/low_rank_rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "moelora/io/error.h"
#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/gemm.h"

namespace moelora::nn::kernels {
namespace {

// Rows of a block: 1 MiB of the wider side, half of a usual L2 cache.
std::int64_t block_rows(std::int64_t d_in, std::int64_t d_out) {
  return std::clamp<std::int64_t>((256 << 10) / std::max(d_in, d_out), 8, 64);
}

struct Sizes {
  std::int64_t rows, rank, width, d_in, d_out, block;
  explicit Sizes(const LowRankCall& call)
      : rows(call.segment_of_row.size(0)),
        rank(call.A.size(0)),
        width(call.width()),
        d_in(call.A.size(1)),
        d_out(call.B.size(0)),
        block(block_rows(d_in, d_out)) {}
  std::int64_t blocks() const { return (rows + block - 1) / block; }
};

// Calls work(begin, count, slice) for runs of rows that are multiplied with the same `width` rows of A and columns of
// B, the first of them `slice`. Without experts of their own all rows are one run.
template <typename Work>
void for_each_run(const LowRankCall& call, std::int64_t begin, std::int64_t count, const Work& work) {
  if (call.expert_of_segment.empty()) {
    work(begin, count, std::int64_t{0});
    return;
  }
  const auto* segment = call.segment_of_row.const_data_ptr<std::int64_t>();
  const auto expert_of = [&](std::int64_t row) {
    return call.expert_of_segment[static_cast<std::size_t>(segment[row])];
  };
  for (std::int64_t row = begin, end = begin; row < begin + count; row = end) {
    const auto expert = expert_of(row);
    while (end < begin + count && expert_of(end) == expert) {
      ++end;
    }
    work(row, end - row, expert * call.width());
  }
}

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

void drop_rows(const DropoutMask& mask, const float* from, std::int64_t begin, std::int64_t count, std::int64_t width,
               float* to) {
  for (std::int64_t row = 0; row < count; ++row) {
    cpu_kernels().drop_row(from + row * width, to + row * width, 0, width, mask.keys[begin + row], mask.threshold,
                           mask.scale);
  }
}

// out[e] = Σ a · b over the e-th of `groups` equal parts of the row.
void grouped_dot_row(const float* a, const float* b, std::int64_t width, std::int64_t groups, float* out) {
  const std::int64_t share = width / groups;
  for (std::int64_t e = 0; e < groups; ++e) {
    float sum = 0.0f;
    for (std::int64_t i = e * share; i < (e + 1) * share; ++i) {
      sum += a[i] * b[i];
    }
    out[e] = sum;
  }
}

}  // namespace

at::Tensor low_rank_forward(const LowRankCall& call, const at::Tensor& x, const at::Tensor& bias, at::Tensor& u) {
  const Sizes size(call);
  at::Tensor y = at::empty({size.rows, size.d_out}, x.options().requires_grad(false));
  u = at::empty({size.rows, size.width}, y.options());
  const auto* input = x.const_data_ptr<float>();
  const auto* a = call.A.const_data_ptr<float>();
  const auto* b = call.B.const_data_ptr<float>();
  const auto* shift = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  auto* result = y.mutable_data_ptr<float>();
  auto* inner = u.mutable_data_ptr<float>();
  at::parallel_for(0, size.blocks(), 1, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> dropped(static_cast<std::size_t>(call.mask.active() ? size.block * size.d_in : 0));
    std::vector<float> weighed(static_cast<std::size_t>(size.block * size.width));
    const auto run = [&](std::int64_t begin, std::int64_t count, std::int64_t slice) {
      const float* rows = input + begin * size.d_in;
      if (call.mask.active()) {
        drop_rows(call.mask, rows, begin, count, size.d_in, dropped.data());
        rows = dropped.data();
      }
      float* u_rows = inner + begin * size.width;
      gemm(Op::none, Op::transpose, count, size.width, size.d_in, 1.0f, rows, size.d_in, a + slice * size.d_in,
           size.d_in, 0.0f, u_rows, size.width);
      weigh_rows(call, u_rows, begin, count, size.width, weighed.data());
      float* y_rows = result + begin * size.d_out;
      if (shift != nullptr) {
        for (std::int64_t row = 0; row < count; ++row) {
          std::copy(shift, shift + size.d_out, y_rows + row * size.d_out);
        }
      }
      gemm(Op::none, Op::transpose, count, size.d_out, size.width, 1.0f, weighed.data(), size.width, b + slice,
           size.rank, shift != nullptr ? 1.0f : 0.0f, y_rows, size.d_out);
    };
    for (std::int64_t block = first; block < last; ++block) {
      const auto begin = block * size.block;
      for_each_run(call, begin, std::min(size.block, size.rows - begin), run);
    }
  });
  return y;
}

namespace {

/// The part of the backward that one thread computes, block by block.
class BackwardBlocks {
 public:
  BackwardBlocks(const LowRankCall& call, const Sizes& size, const RowSource& x, const at::Tensor& dy,
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
        dv_(floats(size.width)),
        du_(floats(size.width)),
        v_(floats(size.width)),
        rows_(floats(size.d_in)) {
    if (dx_ != nullptr) {
      update_ = floats(size.d_in);
      if (x.is_elementwise()) {
        derivative_ = floats(size.d_in);
      }
      if (call.mask.active()) {
        kept_.resize(static_cast<std::size_t>(size.block * size.d_in));
      }
    }
  }

  // Rows of one run (for_each_run), no more than a block.
  void run(std::int64_t begin, std::int64_t count, std::int64_t slice) {
    const auto width = size_.width;
    const float* dy_rows = dy_ + begin * size_.d_out;
    const float* u_rows = u_ + begin * width;
    gemm(Op::none, Op::none, count, width, size_.d_out, 1.0f, dy_rows, size_.d_out,
         call_.B.const_data_ptr<float>() + slice, size_.rank, 0.0f, dv_.data(), width);
    weigh_rows(call_, dv_.data(), begin, count, width, du_.data());
    if (call_.trains) {
      weigh_rows(call_, u_rows, begin, count, width, v_.data());
      gemm(Op::transpose, Op::none, size_.d_out, width, count, 1.0f, dy_rows, size_.d_out, v_.data(), width, 1.0f,
           dB.mutable_data_ptr<float>() + slice, size_.rank);
    }
    for (std::int64_t row = 0; sums_ != nullptr && row < count; ++row) {
      grouped_dot_row(dv_.data() + row * width, u_rows + row * width, width, call_.experts,
                      sums_ + (begin + row) * call_.experts);
    }
    if (call_.trains || !derivative_.empty() || !kept_.empty()) {
      make_rows(begin, count);
    }
    if (call_.trains) {
      gemm(Op::transpose, Op::none, width, size_.d_in, count, 1.0f, du_.data(), width, rows_.data(), size_.d_in, 1.0f,
           dA.mutable_data_ptr<float>() + slice * size_.d_in, size_.d_in);
    }
    if (dx_ != nullptr) {
      finish_dx(begin, count, slice);
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
    if (derivative_.empty()) {
      x_.some(begin, count, rows_.data());
    } else {
      x_.some_with_derivative(begin, count, rows_.data(), derivative_.data());
    }
    if (kept_.empty()) {
      if (call_.mask.active()) {
        drop_rows(call_.mask, rows_.data(), begin, count, size_.d_in, rows_.data());
      }
      return;
    }
    for (std::int64_t row = 0; row < count; ++row) {
      float* values = rows_.data() + row * size_.d_in;
      cpu_kernels().drop_row_and_note(values, values, size_.d_in, call_.mask.keys[begin + row], call_.mask.threshold,
                                      call_.mask.scale, kept_.data() + row * size_.d_in);
    }
  }

  void finish_dx(std::int64_t begin, std::int64_t count, std::int64_t slice) {
    const auto width = size_.d_in;
    gemm(Op::none, Op::none, count, width, size_.width, 1.0f, du_.data(), size_.width,
         call_.A.const_data_ptr<float>() + slice * width, width, 0.0f, update_.data(), width);
    for (std::int64_t row = 0; row < count; ++row) {
      const auto at = row * width;
      cpu_kernels().finish_gradient_row(update_.data() + at, kept_.empty() ? nullptr : kept_.data() + at,
                                        call_.mask.scale, derivative_.empty() ? nullptr : derivative_.data() + at,
                                        dx_ + begin * width + at, width);
    }
  }

  const LowRankCall& call_;
  const Sizes& size_;
  const RowSource& x_;
  const float* dy_;
  const float* u_;
  float* dx_;
  float* sums_;
  std::vector<float> dv_, du_, v_, rows_, update_, derivative_;
  std::vector<std::uint8_t> kept_;
};

}  // namespace

LowRankGradients low_rank_backward(const LowRankCall& call, const at::Tensor& dy, const RowSource& x,
                                   const at::Tensor& u, at::Tensor& dx, bool need_expert_sums) {
  const Sizes size(call);
  MOELORA_CHECK(u.size(1) == size.width && !(need_expert_sums && size.width != size.rank),
                "the gradient of expert weights needs all ", size.rank, " elements of A x, found ", u.size(1),
                "; the weights must require their gradient in the forward already");
  LowRankGradients result;
  if (need_expert_sums) {
    result.expert_sums = at::empty({size.rows, call.experts}, dy.options());
  }
  // Each thread sums its own rows; the sums are added in the order of the threads.
  std::vector<std::pair<at::Tensor, at::Tensor>> parts(static_cast<std::size_t>(at::get_num_threads()));
  at::parallel_for(0, size.blocks(), 1, [&](std::int64_t first, std::int64_t last) {
    BackwardBlocks blocks(call, size, x, dy, u, dx, result.expert_sums);
    for (std::int64_t block = first; block < last; ++block) {
      const auto begin = block * size.block;
      for_each_run(call, begin, std::min(size.block, size.rows - begin),
                   [&](auto... of_run) { blocks.run(of_run...); });
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

}  // namespace moelora::nn::kernels
