#include "model/next_tokens.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "support/pretend_device/pretend_device.h"
#include "support/tiny_chatglm.h"

namespace moelora::model {
namespace {

namespace pretend = testing::pretend;

const std::vector<Prompt> kPrompts{{{5, 6, 7, 91, 94}, 4}, {{9, 91, 94}, 2}, {{8, 8, 91, 94}, 3}};

ChatGlm on_pretend_device() {
  ChatGlm model(testing::tiny_config());
  model->to(pretend::install());
  return model;
}

// Tokens, their positions and what keep() leaves: the same from the host and from the device, which needs one wait.
TEST(NextTokens, OfTheDeviceAreThoseOfTheHost) {
  ChatGlm model(testing::tiny_config()), there = on_pretend_device();
  for (const bool sample : {false, true}) {
    GenerationOptions options;
    options.sample = sample;
    options.streams = {4, 1, 9};
    const auto host = make_next_tokens(*model, kPrompts, options), device = make_next_tokens(*there, kPrompts, options);
    EXPECT_FALSE(host->is_on_device());
    ASSERT_TRUE(device->is_on_device());
    at::manual_seed(3);
    for (int step = 0; step < 4; ++step) {
      const at::Tensor logits = at::randn({step < 2 ? 3 : 2, 96});
      const at::Tensor on_device = logits.to(there->device());
      host->choose(logits);
      pretend::reset();
      device->choose(on_device);
      const auto expected = host->read();
      EXPECT_EQ(device->read(), expected);
      const auto counted = pretend::counters();
      EXPECT_EQ(counted.operators, 1);
      EXPECT_EQ(counted.waits, 1);
      EXPECT_EQ(counted.uploads, 0);
      if (step == 1) {
        host->keep({2, 0});
        device->keep({2, 0});
      }
      EXPECT_TRUE(at::equal(device->ids().cpu(), host->ids())) << "step " << step;
      EXPECT_TRUE(at::equal(device->positions().cpu(), host->positions())) << "step " << step;
    }
  }
}

TEST(NextTokens, LogitsThatAreNotFiniteGiveNone) {
  ChatGlm model(testing::tiny_config()), there = on_pretend_device();
  for (const ChatGlm& each : {model, there}) {
    const auto tokens = make_next_tokens(*each, kPrompts, {});
    at::Tensor logits = at::zeros({3, 96});
    logits[1][5] = std::numeric_limits<float>::quiet_NaN();
    tokens->choose(logits.to(each->device()));
    EXPECT_TRUE(tokens->read().empty());
  }
}

class UnevenPositions : public ChatGlmImpl {
 public:
  UnevenPositions() : ChatGlmImpl(testing::tiny_config()) {}
  at::Tensor position_at(std::int64_t, std::int64_t index) const override {
    return at::full({2, 1}, index * index, at::kLong);
  }
};

TEST(NextTokens, AreTheHostsWherePositionsDoNotGrowEvenly) {
  const auto model = std::make_shared<UnevenPositions>();
  model->to(pretend::install());
  EXPECT_FALSE(make_next_tokens(*model, kPrompts, {})->is_on_device());
}

}  // namespace
}  // namespace moelora::model
