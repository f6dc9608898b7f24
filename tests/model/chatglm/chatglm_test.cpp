#include "moelora/model/chatglm/chatglm.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "moelora/io/error.h"
#include "support/tiny_chatglm.h"

namespace moelora::model {
namespace {

TEST(ChatGlm, ParametersCarryTheNamesOfTheCheckpoint) {
  ChatGlm model(testing::tiny_config());
  std::map<std::string, std::vector<std::int64_t>> expected;
  for (const auto& [name, shape] : expected_tensors(testing::tiny_config()).tensors) {
    expected[name] = shape;
  }
  std::size_t found = 0;
  for (const auto& parameter : model->named_parameters()) {
    ASSERT_TRUE(expected.contains(parameter.key())) << parameter.key();
    EXPECT_EQ(parameter.value().sizes(), at::IntArrayRef(expected[parameter.key()]));
    ++found;
  }
  EXPECT_EQ(found, expected.size());
}

TEST(ChatGlm, ParameterCountOfThePublishedModel) {
  EXPECT_EQ(ChatGlmConfig{}.parameter_count(/*tied_head=*/true), 6173286400);
  std::int64_t count = 0;
  const ChatGlmConfig tiny = testing::tiny_config();
  for (const auto& parameter : ChatGlm(tiny)->parameters()) {
    count += parameter.numel();
  }
  EXPECT_EQ(tiny.parameter_count(/*tied_head=*/false), count);
}

TEST(ChatGlm, PositionsStopAtTheMaskAndCountFromThere) {
  ChatGlm model(testing::tiny_config());
  const at::Tensor positions = model->positions(nn::Segments::from_lengths({6, 3}, {4, 2}));
  EXPECT_TRUE(at::equal(positions[0], at::tensor({0, 1, 2, 3, 3, 3, 0, 1, 1}, at::kLong)));
  EXPECT_TRUE(at::equal(positions[1], at::tensor({0, 0, 0, 0, 1, 2, 0, 0, 1}, at::kLong)));
  for (std::int64_t row = 0; row < 6; ++row) {
    EXPECT_TRUE(at::equal(model->position_at(4, row).view(-1), positions.select(1, row))) << row;
  }
}

TEST(ChatGlm, OutputRowsAreTheRowsOfTheWholeForward) {
  ChatGlm model(testing::tiny_config());
  at::NoGradGuard guard;
  const nn::Segments segments = nn::Segments::from_lengths({9, 5}, {4, 3});
  const at::Tensor ids = at::randint(0, 90, {14}, at::kLong);
  const nn::RowContext context = nn::RowContext::plain(segments);
  const at::Tensor all = model->hidden(ids, model->positions(segments), context);
  ForwardOptions options;
  options.output_rows = at::tensor({3, 8, 13}, at::kLong);
  const at::Tensor some = model->hidden(ids, model->positions(segments), context, options);
  EXPECT_LE((all.index_select(0, options.output_rows) - some).abs().max().item<float>(), 1e-5);
}

TEST(ChatGlm, ATiedHeadIsOneTensorThroughDtypeChanges) {
  ChatGlm model(testing::tiny_config());
  EXPECT_FALSE(model->head_is_tied());
  model->tie_head();
  EXPECT_TRUE(model->head_is_tied());
  model->to(at::kHalf);
  EXPECT_TRUE(model->head_is_tied());
  EXPECT_EQ(model->lm_head->weight.data_ptr(), model->transformer->word_embeddings->weight.data_ptr());
}

TEST(ChatGlm, ComputesInLowerPrecisionsNearTheSingleOne) {
  at::NoGradGuard guard;
  const nn::Segments segments = nn::Segments::from_lengths({9}, {4});
  const at::Tensor ids = at::arange(9, at::kLong);
  const auto logits = [&](at::ScalarType dtype) {
    ChatGlm model(testing::tiny_config(), random_tensors(3, at::kFloat));
    model->to(dtype);
    return model->logits(model->hidden(ids, model->positions(segments), nn::RowContext::plain(segments)))
        .to(at::kFloat);
  };
  const at::Tensor exact = logits(at::kFloat);
  const float scale = exact.abs().max().item<float>();
  EXPECT_LE((logits(at::kHalf) - exact).abs().max().item<float>(), 0.02f * scale);
  EXPECT_LE((logits(at::kBFloat16) - exact).abs().max().item<float>(), 0.1f * scale);
}

TEST(ChatGlm, RejectsInputsThatDoNotFitTheContext) {
  ChatGlm model(testing::tiny_config());
  const nn::Segments segments = nn::Segments::from_lengths({4}, {2});
  EXPECT_THROW(model->hidden(at::zeros({5}, at::kLong), model->positions(segments), nn::RowContext::plain(segments)),
               Error);
}

TEST(TokenLosses, EqualCrossEntropyWithGradients) {
  ChatGlm model(testing::tiny_config());
  const at::Tensor hidden = at::randn({7, 32}).set_requires_grad(true);
  const at::Tensor labels = at::randint(0, 96, {7}, at::kLong);
  const at::Tensor weights = at::rand({7});
  const at::Tensor losses = token_losses(*model, hidden, labels);
  (losses * weights).sum().backward();
  const at::Tensor dhidden = hidden.grad().clone();
  const at::Tensor dweight = model->lm_head->weight.grad().clone();
  hidden.mutable_grad() = at::Tensor();
  model->lm_head->weight.mutable_grad() = at::Tensor();
  const at::Tensor plain = at::cross_entropy_loss(model->logits(hidden), labels, {}, at::Reduction::None);
  (plain * weights).sum().backward();
  EXPECT_LE((losses - plain).abs().max().item<float>(), 1e-5);
  EXPECT_LE((dhidden - hidden.grad()).abs().max().item<float>(), 1e-6);
  EXPECT_LE((dweight - model->lm_head->weight.grad()).abs().max().item<float>(), 1e-5);
}

}  // namespace
}  // namespace moelora::model
