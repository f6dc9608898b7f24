// What an adapted linear costs on a device: launches, waits and memory, whatever the routing and the segments.
#include <gtest/gtest.h>

#include "device/adapted_model.h"
#include "moelora/adapter/moe_lora_linear.h"
#include "moelora/nn/dropout.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)
namespace pretend = testing::pretend;

constexpr std::int64_t kRows = 96, kIn = 512, kOut = 260;

/// One linear's delta on the device and a batch for it.
struct AdaptedRows {
  AdaptedRows(Routing routing, std::int64_t experts, double dropout, std::int64_t segments,
              at::ScalarType dtype = at::kHalf)
      : x(at::randn({kRows, kIn}).to(dtype).to(pretend_device())),
        dy(at::randn({kRows, kOut}).to(dtype).to(pretend_device())),
        bias(at::randn({kOut}).to(dtype).to(pretend_device())) {
    MoeLoraConfig config;
    config.routing = routing;
    config.num_experts = experts;
    config.rank = 16;
    config.dropout = dropout;
    delta = MoeLoraLinear(kIn, kOut, config, 0, 7);
    delta->to(pretend_device());
    std::vector<std::int64_t> draws(static_cast<std::size_t>(segments), 3);
    context =
        nn::RowContext::plain(nn::Segments::from_lengths(std::vector<std::int64_t>(draws.size(), kRows / segments)),
                              pretend_device(), {5, draws});
    if (experts > 1 && routing != Routing::token) {
      const at::Tensor omega = routing == Routing::single ? at::one_hot(at::arange(segments) % experts, experts)
                                                          : at::full({segments, experts}, 1.0 / experts);
      context.expert_weights = omega.to(at::kFloat).unsqueeze(0).to(pretend_device());
    }
  }

  pretend::Counters forward() {
    pretend::reset();
    y = delta->begin_forward(x, bias, context, tape);
    return pretend::counters();
  }
  pretend::Counters backward() {
    at::Tensor dx = at::zeros_like(x);
    nn::DeltaGradients found;
    if (context.expert_weights.defined()) {
      found.expert_weights = at::zeros_like(context.expert_weights);
    }
    pretend::reset();
    delta->finish_backward(dy, nn::StoredRows(x), tape, context, dx, found);
    return pretend::counters();
  }

  at::Tensor x, dy, bias, y, tape;
  MoeLoraLinear delta{nullptr};
  nn::RowContext context;
};

TEST(DeviceLowRankCost, TwoLaunchesForwardAndFiveBackward) {
  const auto check = [](Routing routing, std::int64_t experts, std::int64_t segments, int backward) {
    AdaptedRows rows(routing, experts, 0.1, segments);
    const auto forth = rows.forward(), back = rows.backward();
    EXPECT_EQ(forth.operators, 2) << routing_name(routing) << forth.to_text();
    EXPECT_EQ(back.operators, backward) << routing_name(routing) << back.to_text();
    EXPECT_EQ(forth.waits + back.waits + forth.uploads + back.uploads, 0) << routing_name(routing);
  };
  for (const std::int64_t segments : {1, 48}) {
    check(Routing::task, 8, segments, 5);
    check(Routing::uniform, 4, segments, 5);
    check(Routing::single, 4, segments, 5);
    check(Routing::table, 2, segments, 5);
    check(Routing::task, 1, segments, 4);  // no gate
  }
}

TEST(DeviceLowRankCost, TokenRoutingDoesNotWait) {
  AdaptedRows rows(Routing::token, 4, 0.1, 3);
  const auto forth = rows.forward(), back = rows.backward();
  EXPECT_EQ(forth.waits + back.waits + forth.uploads + back.uploads, 0) << forth.to_text() << back.to_text();
}

// The mask lives in registers: with dropout as much memory as without.
TEST(DeviceLowRankCost, DropoutTakesNoMemory) {
  for (const auto dtype : {at::kFloat, at::kHalf}) {
    std::int64_t forward[2], backward[2];
    for (const int dropped : {0, 1}) {
      AdaptedRows rows(Routing::task, 4, dropped * 0.1, 3, dtype);
      const std::int64_t before = pretend::live_bytes();
      forward[dropped] = rows.forward().peak_bytes - before;
      const std::int64_t between = pretend::live_bytes();
      backward[dropped] = rows.backward().peak_bytes - between;
    }
    EXPECT_EQ(forward[1], forward[0]);
    EXPECT_EQ(backward[1], backward[0]);
  }
}

TEST(DeviceLowRankCost, KeyedDropoutByItselfTakesItsResultOnly) {
  const AdaptedRows rows(Routing::task, 4, 0.1, 3);
  pretend::reset();
  const std::int64_t before = pretend::live_bytes();
  const at::Tensor y = nn::apply_keyed_dropout(rows.x, 0.1, 7, rows.context);
  const auto counted = pretend::counters();
  EXPECT_EQ(counted.peak_bytes - before, pretend::live_bytes() - before);
  EXPECT_EQ(counted.operators, 1);
  EXPECT_EQ(counted.waits, 0);
}

// A row whose expert is read nowhere on the host gets what the CPU's kernel gives it, which multiplies that expert
// only.
TEST(DeviceLowRankCost, SingleExpertsEqualTheCpus) {
  AdaptedRows device(Routing::single, 4, 0.1, 8, at::kFloat);
  {
    at::NoGradGuard no_grad;
    device.delta->A.normal_();
    device.delta->B.normal_();
  }
  device.forward();
  at::Tensor tape;
  nn::RowContext context = device.context;
  for (at::Tensor* table :
       {&context.segment_of_row, &context.row_in_segment, &context.draw_of_row, &context.expert_weights}) {
    *table = table->cpu();
  }
  device.delta->to(at::kCPU);
  const at::Tensor expected = device.delta->begin_forward(device.x.cpu(), device.bias.cpu(), context, tape);
  EXPECT_EQ(tape.size(1), 4);
  EXPECT_LE(distance(device.y, expected), 1e-6);
}

}  // namespace
}  // namespace moelora
