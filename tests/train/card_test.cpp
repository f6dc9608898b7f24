#include "moelora/train/card.h"

#include <gtest/gtest.h>

#include "io/raises.h"
#include "moelora/model/chatglm/chatglm.h"
#include "moelora/model/registry.h"
#include "moelora/model/weights.h"
#include "train/fixture.h"

namespace moelora::train {
namespace {

using io::raises;

/// ChatGLM-6B with the paper's adapter, and one step of 64 samples of 1220 tokens: shapes alone.
struct LargeRun {
  explicit LargeRun(at::ScalarType dtype = at::kHalf, std::int64_t length = 1220) {
    for (const auto& family : model::families()) {
      if (const auto config = family->default_config(); config && model == nullptr) {
        model = config->make(model::weightless_tensors(dtype));
      }
    }
    MoeLoraConfig config;
    config.rank = 16;
    config.num_experts = 8;
    adapter = inject(*model, config, TaskNames({"task"}));
    example.ids.resize(static_cast<std::size_t>(length));
    example.label_begin = length * 5 / 6;
    steps.emplace_back(64, &example);
  }

  Machine machine(const std::string& card) const {
    return machine_of(find_card(card), model->dtype(), 6173286400.0 * (model->dtype() == at::kHalf ? 2.0 : 4.0),
                      adapter.get());
  }
  MicroBatchChoice choose(const std::string& card, std::int64_t wanted) const {
    return choose_micro_batch(*model, adapter.get(), adapter->parameters(), steps, wanted, machine(card),
                              find_card(card).memory_bytes);
  }
  /// The peak of a plan with what was chosen.
  double peak_of(const std::string& card, const MicroBatchChoice& choice) const {
    return plan_step(*model, adapter.get(), adapter->parameters(), steps.front(), choice.tokens, choice.budget_bytes,
                     machine(card))
        .peak_bytes;
  }

  std::shared_ptr<model::CausalLM> model;
  Adapter adapter{nullptr};
  data::Example example;
  std::vector<std::vector<const data::Example*>> steps;
};

TEST(Card, TheTableIsWhole) {
  for (const Card& card : known_cards()) {
    EXPECT_EQ(&find_card(card.name), &card);
    EXPECT_GT(card.memory_bytes, 15e9) << card.name;
    EXPECT_GT(card.operations(at::kHalf), card.operations(at::kFloat)) << card.name;
    EXPECT_GT(card.bytes_per_second, 0.5e12) << card.name;
  }
  EXPECT_EQ(find_card("v100-32gb").operations(at::kBFloat16), 0.0);
  EXPECT_EQ(default_card(at::kHalf).name, "v100-32gb");
  EXPECT_GT(default_card(at::kBFloat16).operations(at::kBFloat16), 0.0);
  EXPECT_TRUE(raises([] { find_card("v100"); }, "--card: expected one of v100-16gb, v100-32gb, a100-40gb"));
}

TEST(Card, AV100Of32GigabytesTakesChatGlm6BAsItIsConfigured) {
  const LargeRun run;
  const MicroBatchChoice choice = run.choose("v100-32gb", 4096);
  EXPECT_TRUE(choice.fits);
  EXPECT_EQ(choice.tokens, 4096);
  EXPECT_EQ(choice.recomputed_blocks, 0);
  EXPECT_EQ(choice.budget_bytes, 0.0);
  EXPECT_GT(choice.peak_bytes, 12.4e9);
  EXPECT_LE(choice.peak_bytes, find_card("v100-32gb").memory_bytes);
  EXPECT_EQ(run.peak_of("v100-32gb", choice), choice.peak_bytes);
}

TEST(Card, AV100Of16GigabytesTakesSmallerMicroBatches) {
  const LargeRun run;
  const MicroBatchChoice choice = run.choose("v100-16gb", 4096);
  EXPECT_TRUE(choice.fits);
  EXPECT_LT(choice.tokens, 4096);
  EXPECT_GE(choice.tokens, 1220);
  EXPECT_LE(choice.peak_bytes, find_card("v100-16gb").memory_bytes);
  EXPECT_EQ(run.peak_of("v100-16gb", choice), choice.peak_bytes) << "the settings that are proposed give this peak";
}

TEST(Card, LongSamplesNeedRecomputedBlocks) {
  const LargeRun run(at::kHalf, 2048);
  const MicroBatchChoice choice = run.choose("v100-16gb", 4096);
  EXPECT_TRUE(choice.fits);
  EXPECT_GT(choice.recomputed_blocks, 0);
  EXPECT_GT(choice.budget_bytes, 0.0);
  EXPECT_LE(choice.peak_bytes, find_card("v100-16gb").memory_bytes);
  EXPECT_EQ(run.peak_of("v100-16gb", choice), choice.peak_bytes) << "the settings that are proposed give this peak";
}

TEST(Card, WeightsThatAreOneTensorCountOnce) {
  model::ChatGlm model = fixture::tiny_model();
  const double apart = weight_bytes(*model);
  EXPECT_GT(apart, 0.0);
  const at::Tensor parameter = at::zeros({10});
  torch::nn::Module twice;
  twice.register_parameter("a", parameter);
  twice.register_parameter("b", parameter.view({2, 5}));
  EXPECT_EQ(weight_bytes(twice), 40.0);
}

TEST(Card, FewerTokensGoBeforeRecomputedBlocks) {
  const LargeRun run;
  const MicroBatchChoice choice = run.choose("v100-32gb", 12000);
  EXPECT_TRUE(choice.fits);
  EXPECT_EQ(choice.recomputed_blocks, 0);
  EXPECT_GE(choice.tokens, 4096);
  EXPECT_LT(choice.tokens, 12000);
}

TEST(Card, SaysWhenNothingFits) {
  const LargeRun run(at::kFloat);
  const MicroBatchChoice choice = run.choose("v100-16gb", 4096);
  EXPECT_FALSE(choice.fits);
  EXPECT_GT(choice.peak_bytes, 24e9);
}

// A step of a card takes at least the time in which its weights are read, and products at half of the peak.
TEST(Card, TimesFollowTheTable) {
  const LargeRun run;
  const auto seconds = [&](const std::string& card, std::int64_t tokens) {
    return plan_step(*run.model, run.adapter.get(), {}, run.steps.front(), tokens, 0.0, run.machine(card)).seconds;
  };
  EXPECT_NEAR(seconds("v100-32gb", 4096) / seconds("h100-80gb", 4096), 989.0 / 125.0, 0.5);
  const LargeRun tiny(at::kHalf, 12);
  const double least =
      plan_step(*tiny.model, tiny.adapter.get(), {}, {&tiny.example}, 4096, 0.0, tiny.machine("v100-32gb")).seconds;
  EXPECT_NEAR(least, 2.0 * 12.35e9 / 0.9e12 + 0.0125, 1e-3);
}

}  // namespace
}  // namespace moelora::train
