// The low-rank update of rows on the CPU and on a device: the same cases against the same reference.

#include "nn/kernels/cuda/low_rank.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "moelora/nn/dropout.h"
#include "moelora/nn/recomputed_rows.h"
#include "moelora/nn/row_source.h"
#include "moelora/nn/swiglu.h"
#include "nn/kernels/cpu/low_rank_rows.h"
#include "nn/kernels/cuda/dropout.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

constexpr std::uint64_t kLinear = 0xfeed;
constexpr double kScaling = 1.5;

enum class Source { stored, gelu, normalised, rms_normalised, swiglu };

struct LowRankCase {
  std::string name;
  std::vector<std::int64_t> lengths;
  std::int64_t d_in = 64;
  std::int64_t d_out = 32;
  std::int64_t rank = 16;
  std::int64_t experts = 1;
  double dropout = 0.0;
  Source source = Source::stored;
  bool bias = true;
  bool selected = false;     // some rows of the batch, in another order
  bool row_weights = false;  // expert weights of each row's own
};

std::vector<LowRankCase> low_rank_cases() {
  std::vector<LowRankCase> cases{
      {.name = "NoRow", .lengths = {}, .experts = 4, .dropout = 0.1},
      {.name = "OneRow", .lengths = {1}, .experts = 4, .dropout = 0.1},
      {.name = "Plain", .lengths = {5, 9}},
      {.name = "ManyRows", .lengths = {70, 1, 130}, .d_in = 80, .d_out = 136, .experts = 8, .dropout = 0.1},
      {.name = "Wide", .lengths = {3, 4}, .d_in = 1100, .d_out = 900, .experts = 4, .dropout = 0.1},
      {.name = "OddWidths", .lengths = {3, 40}, .d_in = 131, .d_out = 257, .experts = 2, .dropout = 0.3},
      {.name = "Tiny", .lengths = {2, 1}, .d_in = 1, .d_out = 3, .rank = 2, .experts = 2, .dropout = 0.5},
      {.name = "NoBias", .lengths = {6, 2}, .experts = 4, .bias = false},
      {.name = "Selected", .lengths = {30, 50}, .experts = 4, .dropout = 0.1, .selected = true},
      {.name = "RowWeights", .lengths = {30, 50}, .experts = 4, .dropout = 0.1, .row_weights = true},
      {.name = "Gelu", .lengths = {30, 50}, .d_in = 132, .experts = 4, .dropout = 0.1, .source = Source::gelu},
      {.name = "GeluOdd", .lengths = {7}, .d_in = 33, .source = Source::gelu},
      {.name = "Norm", .lengths = {30, 50}, .d_in = 132, .experts = 4, .dropout = 0.1, .source = Source::normalised},
      {.name = "NormOdd", .lengths = {7}, .d_in = 33, .source = Source::normalised},
      {.name = "RmsNorm",
       .lengths = {30, 50},
       .d_in = 132,
       .experts = 4,
       .dropout = 0.1,
       .source = Source::rms_normalised},
      {.name = "RmsNormOdd", .lengths = {7}, .d_in = 33, .source = Source::rms_normalised},
      {.name = "SwiGlu", .lengths = {30, 50}, .d_in = 132, .experts = 4, .dropout = 0.1, .source = Source::swiglu},
      {.name = "SwiGluOdd", .lengths = {7}, .d_in = 33, .source = Source::swiglu},
  };
  for (const std::int64_t rank : {1, 8, 17, 64}) {
    const auto experts = rank % 8 == 0 ? 4 : 1;
    cases.push_back({.name = "Rank" + std::to_string(rank),
                     .lengths = {20, 21},
                     .d_in = 72,
                     .d_out = 140,
                     .rank = rank,
                     .experts = experts,
                     .dropout = 0.1});
  }
  return cases;
}

// Tensors of a case, in a type of element; what is computed from them, in double.
struct LowRankData {
  LowRankData(const LowRankCase& of, at::ScalarType type) : of(of) {
    std::vector<std::int64_t> draws(of.lengths.size());
    std::iota(draws.begin(), draws.end(), 1234567890123);
    context = RowContext::plain(Segments::from_lengths(of.lengths), at::kCPU, {99, draws});
    if (of.selected) {
      context = context.select(at::randperm(context.rows()).narrow(0, 0, context.rows() / 2));
    }
    const auto rows = context.rows();
    A = at::randn({of.rank, of.d_in}) / 8;
    B = at::randn({of.d_out, of.rank});
    bias = of.bias ? at::randn({of.d_out}).to(type) : at::Tensor();
    const auto segments = of.row_weights ? rows : context.segments.count();
    omega = at::softmax(at::randn({3, segments, of.experts}), 2);
    of_row = of.row_weights ? at::arange(rows) : context.segment_of_row;
    before = at::randn({rows, of.d_in}).to(type);
    dy = at::randn({rows, of.d_out}).to(type);
    dx = at::randn({rows, of.d_in}).to(type);
    if (of.source == Source::normalised) {
      source = std::make_unique<NormalisedRows>(before, at::randn({rows, 1}), at::rand({rows, 1}) + 0.5,
                                                at::randn({of.d_in}).to(type), at::randn({of.d_in}).to(type));
    } else if (of.source == Source::rms_normalised) {
      source = std::make_unique<RmsNormalisedRows>(RmsNorm(at::randn({of.d_in}).to(type), 1e-6), before,
                                                   at::rand({rows, 1}) + 0.5);
    } else if (of.source == Source::swiglu) {
      const auto [gate, up] = gate_and_up(at::randn({rows, 2 * of.d_in}).to(type));
      source = std::make_unique<SwiGluRows>(gate, up);
    } else if (of.source == Source::gelu) {
      source = std::make_unique<GeluRows>(before);
    } else {
      source = std::make_unique<StoredRows>(before);
    }
    x = source->all();
  }

  at::Tensor diagonal() const {  // [segments, r]
    return (omega[kGate] * kScaling).repeat_interleave(of.rank / of.experts, 1).contiguous();
  }
  at::Tensor mask() const {
    if (of.dropout == 0.0 || context.rows() == 0) {
      return at::ones({context.rows(), of.d_in}, at::kDouble);
    }
    return keyed_dropout_keep_mask(of.d_in, of.dropout, kLinear, context).to(at::kDouble) / (1.0 - of.dropout);
  }

  static constexpr std::int64_t kGate = 1;
  LowRankCase of;
  RowContext context;
  at::Tensor A, B, bias, omega, of_row, before, x, dy, dx;
  std::unique_ptr<RowSource> source;
};

struct LowRankResult {
  at::Tensor y, u, dA, dB, dx, domega;  // domega [segments, N], of the gate
  at::Tensor domega_terms;              // sums of the magnitudes of what domega is the sum of; of the reference
};

LowRankResult reference(const LowRankData& data) {
  const auto fp64 = [](const at::Tensor& x) { return x.to(at::kDouble); };
  const at::Tensor mask = data.mask();
  const at::Tensor dropped = fp64(data.x) * mask;
  const at::Tensor weights = fp64(data.diagonal()).index_select(0, data.of_row);
  LowRankResult result;
  result.u = at::mm(dropped, fp64(data.A).t());
  result.y = at::mm(result.u * weights, fp64(data.B).t());
  if (data.bias.defined()) {
    result.y += fp64(data.bias);
  }
  const at::Tensor dv = at::mm(fp64(data.dy), fp64(data.B));
  const at::Tensor du = dv * weights;
  result.dA = at::mm(du.t(), dropped);
  result.dB = at::mm(fp64(data.dy).t(), result.u * weights);
  result.dx = fp64(data.dx) + mask * at::mm(du, fp64(data.A));
  if (data.of.source == Source::gelu) {
    result.dx = at::gelu_backward(result.dx, fp64(data.before), "tanh");
  }
  const auto by_expert = [&](const at::Tensor& x) {
    const at::Tensor sums = x.view({dv.size(0), data.of.experts, data.of.rank / data.of.experts}).sum(2);
    return at::zeros({data.omega.size(1), data.of.experts}, at::kDouble).index_add_(0, data.of_row, sums, kScaling);
  };
  result.domega = by_expert(dv * result.u);
  result.domega_terms = by_expert((dv * result.u).abs());
  return result;
}

LowRankResult on_cpu(const LowRankData& data) {
  LowRankResult result;
  const kernels::LowRankCall call{data.A,
                                  data.B,
                                  data.diagonal(),
                                  data.of_row,
                                  data.of.experts,
                                  dropout_mask(data.of.dropout, kLinear, data.context),
                                  {},
                                  true};
  result.y = kernels::low_rank_forward(call, data.x, data.bias, result.u);
  result.dx = data.dx.clone();
  const auto found = kernels::low_rank_backward(call, data.dy, *data.source, result.u, result.dx, true);
  // Without a row no thread has sums.
  result.dA = found.A.defined() ? found.A : at::zeros_like(data.A);
  result.dB = found.B.defined() ? found.B : at::zeros_like(data.B);
  result.domega =
      at::zeros({data.omega.size(1), data.of.experts}).index_add_(0, data.of_row, found.expert_sums, kScaling);
  return result;
}

kernels::DeviceLowRank device_call(const LowRankData& data) {
  return {data.A,
          data.B,
          data.of.experts > 1 ? data.omega[LowRankData::kGate] : at::Tensor(),
          data.of.row_weights ? at::Tensor() : data.of_row,
          kScaling,
          kernels::device_mask(data.of.dropout, kLinear, data.context),
          true};
}

LowRankResult on_device(const LowRankData& data) {
  const testing::HostKernels kernels;
  LowRankResult result;
  const kernels::DeviceLowRank call = device_call(data);
  result.y = kernels::low_rank_forward(call, data.x, data.bias, result.u);
  result.dx = data.dx.clone();
  const at::Tensor gradient = at::ones_like(data.omega);
  const auto found = kernels::low_rank_backward(call, data.dy, *data.source, result.u, result.dx,
                                                data.of.experts > 1 ? gradient[LowRankData::kGate] : at::Tensor());
  result.dA = found.A;
  result.dB = found.B;
  result.domega = gradient[LowRankData::kGate] - 1.0;
  EXPECT_TRUE(gradient[0].eq(1.0).all().item<bool>() && gradient[2].eq(1.0).all().item<bool>())
      << "other gates' gradients were touched";
  return result;
}

struct Implementation {
  std::string name;
  LowRankResult (*run)(const LowRankData&);
  at::ScalarType type;
  double rounding;  // of a result in that type, relative to the largest element
};

std::ostream& operator<<(std::ostream& stream, const Implementation& x) { return stream << x.name; }
std::ostream& operator<<(std::ostream& stream, const LowRankCase& x) { return stream << x.name; }

class LowRankRows : public ::testing::TestWithParam<std::tuple<Implementation, LowRankCase>> {};

TEST_P(LowRankRows, EqualsTheReference) {
  at::manual_seed(7);
  const auto& [implementation, of] = GetParam();
  const LowRankData data(of, implementation.type);
  const LowRankResult expected = reference(data);
  const LowRankResult found = implementation.run(data);
  const auto check = [&](const at::Tensor& x, const at::Tensor& right, double tolerance, const char* name) {
    ASSERT_EQ(x.sizes(), right.sizes()) << name;
    if (right.numel() > 0) {
      EXPECT_LE((x.to(at::kDouble) - right).abs().max().item<double>(), tolerance * right.abs().max().item<double>())
          << name;
    }
  };
  constexpr double kFp32 = 1e-6;
  // fp16 rows computed again may round to a neighbour of what the reference has.
  const double again = of.source == Source::stored ? kFp32 : std::max(kFp32, implementation.rounding / 4);
  check(found.u, expected.u, kFp32, "u");
  check(found.y, expected.y, std::max(kFp32, implementation.rounding), "y");
  check(found.dA, expected.dA, again, "dA");
  check(found.dB, expected.dB, kFp32, "dB");
  check(found.dx, expected.dx, std::max(kFp32, implementation.rounding), "dx");
  if (of.experts > 1) {
    EXPECT_TRUE((found.domega - expected.domega).abs().le(expected.domega_terms * kFp32).all().item<bool>());
  }
  EXPECT_EQ(found.y.scalar_type(), implementation.type);
  EXPECT_EQ(found.dA.scalar_type(), at::kFloat);
}

// Half a unit in the last place: 2^-11 and 2^-8.
INSTANTIATE_TEST_SUITE_P(
    Kernels, LowRankRows,
    ::testing::Combine(::testing::Values(Implementation{"Cpu", on_cpu, at::kFloat, 0.0},
                                         Implementation{"Device", on_device, at::kFloat, 0.0},
                                         Implementation{"DeviceFp16", on_device, at::kHalf, 5e-4},
                                         Implementation{"DeviceBf16", on_device, at::kBFloat16, 4e-3}),
                       ::testing::ValuesIn(low_rank_cases())),
    [](const auto& info) { return std::get<0>(info.param).name + "_" + std::get<1>(info.param).name; });

// Whatever is not wanted changes nothing else.
TEST(DeviceLowRank, PartsCanBeLeftOut) {
  const LowRankData data({.name = "", .lengths = {9, 30}, .experts = 4, .dropout = 0.1, .source = Source::gelu},
                         at::kFloat);
  const LowRankResult all = on_device(data);
  const testing::HostKernels kernels;
  kernels::DeviceLowRank call = device_call(data);
  at::Tensor none;
  const auto factors = kernels::low_rank_backward(call, data.dy, *data.source, all.u, none);
  EXPECT_TRUE(at::equal(factors.A, all.dA) && at::equal(factors.B, all.dB));
  call.trains = false;
  at::Tensor dx = data.dx.clone();
  const auto frozen = kernels::low_rank_backward(call, data.dy, *data.source, all.u, dx);
  EXPECT_FALSE(frozen.A.defined() || frozen.B.defined());
  EXPECT_TRUE(at::equal(dx, all.dx));
}

// Rows that a kernel does not know how to compute again are made once; their derivative comes from their source.
TEST(DeviceLowRank, OtherElementwiseRowsTakeTheirOwnDerivative) {
  class Twice : public RowSource {
   public:
    explicit Twice(at::Tensor x) : x_(std::move(x)) {}
    at::Tensor all() const override { return x_ * 2; }
    void some(std::int64_t, std::int64_t, float*) const override {}
    bool is_elementwise() const override { return true; }
    void multiply_by_derivative(at::Tensor& dx) const override { dx.mul_(2); }

   private:
    at::Tensor x_;
  };
  const LowRankData data({.name = "", .lengths = {9, 30}, .experts = 4, .dropout = 0.1}, at::kFloat);
  const LowRankResult all = on_device(data);
  const testing::HostKernels kernels;
  at::Tensor dx = data.dx.clone();
  const auto found = kernels::low_rank_backward(device_call(data), data.dy, Twice(data.x / 2), all.u, dx);
  EXPECT_TRUE(at::equal(found.A, all.dA));
  EXPECT_TRUE(at::equal(dx, all.dx * 2));
}

// Places that are not aligned to packs of elements are read one by one.
TEST(DeviceLowRank, TakesRowsThatAreNotAligned) {
  const LowRankData data({.name = "", .lengths = {9, 30}, .experts = 4}, at::kHalf);
  const testing::HostKernels kernels;
  const at::Tensor shifted = at::empty({data.x.numel() + 1}, data.x.options()).narrow(0, 1, data.x.numel());
  const at::Tensor x = shifted.view_as(data.x).copy_(data.x);
  at::Tensor u, expected_u;
  const at::Tensor y = kernels::low_rank_forward(device_call(data), x, data.bias, u);
  EXPECT_TRUE(at::equal(y, kernels::low_rank_forward(device_call(data), data.x, data.bias, expected_u)));
  EXPECT_TRUE(at::equal(u, expected_u));
}

// Sums have one order: the same bytes again.
TEST(DeviceLowRank, IsTheSameEachTime) {
  const LowRankData data({.name = "", .lengths = {200, 100}, .experts = 4, .dropout = 0.1}, at::kHalf);
  const LowRankResult first = on_device(data);
  const LowRankResult second = on_device(data);
  EXPECT_TRUE(at::equal(first.dA, second.dA) && at::equal(first.dB, second.dB) &&
              at::equal(first.domega, second.domega) && at::equal(first.dx, second.dx));
}

}  // namespace
}  // namespace moelora::nn
