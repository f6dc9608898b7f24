#include "moelora/model/generation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "moelora/io/error.h"
#include "moelora/model/sampling.h"
#include "support/tiny_chatglm.h"

namespace moelora::model {
namespace {

const std::vector<Prompt>& prompts() {
  static const std::vector<Prompt> three{
      {{5, 6, 7, 8, 91, 94}, 5}, {{9, 91, 94}, 2}, {{1, 2, 3, 4, 5, 6, 7, 8, 9, 91, 94}, 10}};
  return three;
}

// Weights large enough that greedy decoding is not a tie of near-equal logits.
ChatGlm lively_model() {
  ChatGlm model(testing::tiny_config());
  at::NoGradGuard guard;
  for (at::Tensor& parameter : model->parameters()) {
    if (parameter.dim() == 2) {
      parameter.mul_(12.0);
    }
  }
  return model;
}

void expect_the_same_without_a_cache(const std::vector<Prompt>& prompts) {
  ChatGlm model = lively_model();
  GenerationOptions options;
  options.max_new_tokens = 6;
  const auto results = generate(*model, prompts, options);
  at::NoGradGuard guard;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    Prompt so_far = prompts[i];
    for (const std::int64_t token : results[i].ids) {
      const nn::Segments segments = segments_of({so_far});
      const at::Tensor hidden =
          model->hidden(at::tensor(so_far.ids, at::kLong), model->positions(segments), nn::RowContext::plain(segments));
      EXPECT_EQ(model->logits(hidden[-1].unsqueeze(0)).argmax().item<std::int64_t>(), token) << "prompt " << i;
      so_far.ids.push_back(token);
    }
  }
}

TEST(Generate, EqualsDecodingWithoutACache) { expect_the_same_without_a_cache(prompts()); }

TEST(Generate, EqualsDecodingWithoutACacheAlsoWhereNoRowsSeeLaterOnes) {
  std::vector<Prompt> causal = prompts();
  for (Prompt& prompt : causal) {
    prompt.bidirectional_rows = 0;
  }
  expect_the_same_without_a_cache(causal);
}

TEST(Generate, ABatchOfUnequalPromptsEqualsOneByOne) {
  ChatGlm model = lively_model();
  for (const bool sample : {false, true}) {
    GenerationOptions options;
    options.max_new_tokens = 8;
    options.sample = sample;
    options.top_k = 20;
    options.seed = 3;
    const auto together = generate(*model, prompts(), options);
    const auto first = generate(*model, {prompts()[0]}, options);
    EXPECT_EQ(together[0].ids, first[0].ids) << "sample " << sample;
  }
}

TEST(Generate, APromptDrawsFromTheStreamOfItsNumber) {
  ChatGlm model = lively_model();
  GenerationOptions options;
  options.max_new_tokens = 8;
  options.sample = true;
  options.seed = 3;
  options.streams = {7, 8, 9};
  const auto together = generate(*model, prompts(), options);
  options.streams = {9, 7};
  const auto others = generate(*model, {prompts()[2], prompts()[0]}, options);
  EXPECT_EQ(others[0].ids, together[2].ids);
  EXPECT_EQ(others[1].ids, together[0].ids);
  options.streams = {8, 9};
  EXPECT_NE(generate(*model, {prompts()[2], prompts()[0]}, options)[0].ids, together[2].ids);
  options.streams = {1};
  EXPECT_THROW(generate(*model, prompts(), options), Error);
}

TEST(Generate, StopsAtTheEndOfSequenceAndGoesOnWithTheOthers) {
  ChatGlm model = lively_model();
  GenerationOptions options;
  options.max_new_tokens = 6;
  const auto free = generate(*model, prompts(), options);
  options.end_ids = {free[1].ids[2]};
  const auto stopped = generate(*model, prompts(), options);
  EXPECT_TRUE(stopped[1].finished);
  EXPECT_LE(stopped[1].ids.size(), 2u);
  for (std::size_t i = 0; i < free.size(); ++i) {
    EXPECT_TRUE(std::equal(stopped[i].ids.begin(), stopped[i].ids.end(), free[i].ids.begin())) << i;
    EXPECT_EQ(stopped[i].finished, stopped[i].ids.size() < free[i].ids.size()) << i;
  }
}

TEST(Generate, StreamsEachTokenInOrder) {
  ChatGlm model = lively_model();
  GenerationOptions options;
  options.max_new_tokens = 4;
  std::vector<TokenIds> streamed(prompts().size());
  const auto results = generate(*model, prompts(), options, {},
                                [&](std::int64_t prompt, std::int64_t token) { streamed[prompt].push_back(token); });
  for (std::size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(streamed[i], results[i].ids);
  }
}

TEST(Generate, EndsAtTheModelsLength) {
  ChatGlm model = lively_model();
  GenerationOptions options;
  options.max_new_tokens = 1000;
  const auto results = generate(*model, {prompts()[0]}, options);
  EXPECT_EQ(results[0].ids.size() + prompts()[0].ids.size(), 64u);
  EXPECT_FALSE(results[0].finished);
  options.max_new_tokens = 80;
  options.beyond_longest_sequence = true;
  const auto longer = generate(*model, {prompts()[0]}, options);
  ASSERT_EQ(longer[0].ids.size(), 80u);
  EXPECT_TRUE(std::equal(results[0].ids.begin(), results[0].ids.end(), longer[0].ids.begin()));
}

TEST(Generate, TheContextIsMadeOnceAndFollowsTheSequencesThatAreLeft) {
  ChatGlm model = lively_model();
  GenerationOptions options;
  options.max_new_tokens = 6;
  options.end_ids = {generate(*model, prompts(), options)[0].ids[1]};
  int made = 0;
  const nn::ContextMaker maker = [&](const nn::Segments& segments) {
    ++made;
    EXPECT_EQ(segments.offsets, segments_of(prompts()).offsets);
    nn::RowContext context = nn::RowContext::plain(segments);
    context.expert_weights = at::arange(3).to(at::kFloat).view({1, 3, 1});
    return context;
  };
  const auto with_context = generate(*model, prompts(), options, maker);
  EXPECT_EQ(made, 1);
  const auto plain = generate(*model, prompts(), options);
  EXPECT_TRUE(plain[0].finished);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(with_context[i].ids, plain[i].ids);
  }
}

TEST(Generate, BadRequestsAreErrors) {
  ChatGlm model = lively_model();
  EXPECT_THROW(generate(*model, {Prompt{}}, {}), Error);
  EXPECT_THROW(generate(*model, {Prompt{TokenIds(64, 1), 3}}, {}), Error);
  GenerationOptions options;
  options.sample = true;
  options.temperature = 0;
  EXPECT_THROW(generate(*model, prompts(), options), Error);
  options.temperature = 1;
  options.top_p = 0;
  EXPECT_THROW(generate(*model, prompts(), options), Error);
}

TEST(TokenSampler, KeepsToTopKAndTopP) {
  const at::Tensor logits = at::log(at::tensor({0.05f, 0.5f, 0.3f, 0.15f}));
  const auto counts = [&](GenerationOptions options) {
    options.sample = true;
    TokenSampler sampler(options, 0);
    std::vector<int> seen(4);
    for (int i = 0; i < 20000; ++i) {
      ++seen[sampler.next(logits)];
    }
    return seen;
  };
  GenerationOptions options;
  const auto all = counts(options);
  EXPECT_NEAR(all[0] / 20000.0, 0.05, 0.01);
  EXPECT_NEAR(all[1] / 20000.0, 0.5, 0.02);
  options.top_k = 2;
  const auto two = counts(options);
  EXPECT_EQ(two[0] + two[3], 0);
  EXPECT_NEAR(two[1] / 20000.0, 0.625, 0.02);
  options.top_k = 0;
  options.top_p = 0.6;  // 0.5 is not enough, 0.5 + 0.3 is
  const auto nucleus = counts(options);
  EXPECT_EQ(nucleus[0] + nucleus[3], 0);
  EXPECT_GT(nucleus[2], 0);
  options.top_p = 1;
  options.temperature = 0.05;
  EXPECT_GT(counts(options)[1], 19900);
}

}  // namespace
}  // namespace moelora::model
