// Which contexts an adapter's linears accept: its own, for the tasks that its weights are for at present.

#include <gtest/gtest.h>

#include "adapter/user_model.h"
#include "moelora/adapter/merge.h"
#include "moelora/adapter/new_task.h"
#include "moelora/nn/linear_manual_backward.h"

namespace moelora {
namespace {

using testing::error_text;
using testing::fill_updates;
using testing::has;
using testing::user_config;
using testing::user_tasks;
using testing::UserModel;

class Contexts : public ::testing::Test {
 protected:
  at::Tensor run(const nn::RowContext& context) { return model_->hidden(x_, context); }
  std::string refusal(const nn::RowContext& context) {
    return error_text([&] { run(context); });
  }
  /// What graphs that write their backward out make of it.
  std::string manual_refusal(const nn::RowContext& context) {
    return error_text([&] {
      at::NoGradGuard guard;
      at::Tensor tape;
      nn::manual_forward(*model_->up, x_.view({-1, 6}), context, tape);
    });
  }
  nn::RowContext context(Adapter& adapter, const std::vector<std::int64_t>& tasks) {
    return adapter->context(segments_, single_tasks(tasks));
  }

  UserModel model_;
  nn::Segments segments_ = nn::Segments::for_batch(2, 4);
  at::Tensor x_ = at::randn({2, 4, 6});
};

TEST_F(Contexts, OfAnotherAdapterAreAnErrorThatNamesBoth) {
  Adapter first = inject(*model_, user_config(), user_tasks(), "first");
  fill_updates(first);
  Adapter second = inject(*model_, user_config(), user_tasks(), "second");
  fill_updates(second);
  for (const auto& refused : {refusal(context(first, {0, 1})), manual_refusal(context(first, {0, 1}))}) {
    EXPECT_TRUE(has(refused, "made by adapter 'first'") && has(refused, "'second' is active")) << refused;
  }
  EXPECT_EQ(refusal(context(second, {0, 1})), "no error");
  // What is made out of a context is still of the same adapter.
  const at::Tensor rows = at::arange(8);
  EXPECT_TRUE(has(refusal(context(first, {0, 1}).select(rows)), "made by adapter 'first'"));
  const auto next = context(first, {0, 1}).next_rows({0, 1});
  EXPECT_TRUE(has(error_text([&] { model_->up->forward(x_.select(1, 0), next); }), "made by adapter 'first'"));
  const auto pooled = context(first, {0, 1}).pooled();
  EXPECT_TRUE(has(error_text([&] { model_->up->forward(x_.select(1, 0), pooled); }), "made by adapter 'first'"));

  first->enable();
  EXPECT_TRUE(has(refusal(context(second, {0, 1})), "made by adapter 'second'"));
  EXPECT_EQ(refusal(context(first, {0, 1})), "no error");
}

TEST_F(Contexts, OfNoAdapterGoOnAsBefore) {
  MoeLoraConfig config = user_config();
  config.num_experts = 1;
  Adapter adapter = inject(*model_, config, user_tasks());
  fill_updates(adapter);
  // One expert needs no weights, so a plain context is enough; with several it lacks them.
  EXPECT_TRUE(at::equal(run(nn::RowContext::plain(segments_)), run(context(adapter, {0, 1}))));
  eject(adapter);
  Adapter gated = inject(*model_, user_config(), user_tasks());
  EXPECT_TRUE(has(refusal(nn::RowContext::plain(segments_)), "no expert weights"));
  // Expert weights of one's own making, in a context of the adapter's or in a plain one.
  nn::RowContext own = nn::RowContext::plain(segments_);
  own.expert_weights = gated->expert_weights(single_tasks({0, 1}));
  EXPECT_TRUE(at::equal(run(own), run(context(gated, {0, 1}))));
  gated->disable();
  EXPECT_EQ(refusal(context(gated, {0, 1})), "no error");
}

TEST_F(Contexts, OfTwoAdaptersOnDifferentLinearsAreToldApartLinearByLinear) {
  Adapter of_up = inject(*model_, user_config({"up"}), user_tasks(), "of up");
  Adapter of_down = inject(*model_, user_config({"down"}), user_tasks(), "of down");
  ASSERT_TRUE(of_up->enabled() && of_down->enabled());
  EXPECT_TRUE(has(refusal(context(of_up, {0, 1})), "'of down' is active"));
  EXPECT_EQ(error_text([&] {
              model_->down->forward(model_->up->forward(x_, context(of_up, {0, 1})), context(of_down, {0, 1}));
            }),
            "no error");
}

TEST_F(Contexts, MadeForTasksAreThoseOfTheirSequences) {
  Adapter adapter = inject(*model_, user_config(), user_tasks());
  fill_updates(adapter);
  EXPECT_TRUE(at::equal(run(for_tasks(adapter, single_tasks({1, 0}))(segments_)), run(context(adapter, {1, 0}))));
  const nn::ContextMaker of_one = for_task(adapter, user_tasks().name(1));
  EXPECT_TRUE(at::equal(run(of_one(segments_)), run(context(adapter, {1, 1}))));
  EXPECT_EQ(of_one(nn::Segments::from_lengths({2, 2, 2})).expert_weights.size(1), 3);
  EXPECT_THROW(for_task(adapter, "no such task"), Error);
}

TEST_F(Contexts, OfASuccessorWithTheSameNameAreTheSuccessors) {
  Adapter adapter = inject(*model_, user_config(), user_tasks());
  const auto early = context(adapter, {0, 1});
  eject(adapter);
  Adapter with_more = with_new_task(*model_, *adapter, "coding again");
  const std::string refused = refusal(early);
  EXPECT_TRUE(has(refused, "'default'") && has(refused, "another one of that name")) << refused;
  EXPECT_EQ(refusal(context(with_more, {0, 3})), "no error");
}

TEST_F(Contexts, OfAnotherShapeAreErrors) {
  Adapter adapter = inject(*model_, user_config(), user_tasks());
  const auto four_of_two = adapter->context(nn::Segments::for_batch(4, 2), single_tasks({0, 1, 0, 1}));
  const std::string swapped = refusal(four_of_two);
  EXPECT_TRUE(has(swapped, "4 sequences") && has(swapped, "[2, 4, 6]")) << swapped;
  EXPECT_TRUE(has(refusal(adapter->context(nn::Segments::for_batch(2, 3), single_tasks({0, 1}))), "has 8 rows"));
  EXPECT_TRUE(has(refusal(adapter->context(nn::Segments::for_batch(3, 4), single_tasks({0, 1, 2}))), "has 8 rows"));
  // Packed rows may come with a leading axis of 1.
  EXPECT_EQ(error_text([&] { model_->up->forward(x_.view({1, 8, 6}), four_of_two); }), "no error");
  EXPECT_EQ(error_text([&] { model_->up->forward(x_.view({8, 6}), four_of_two); }), "no error");
}

TEST_F(Contexts, ForAnotherTaskThanTheMergedOneAreAnErrorThatNamesBoth) {
  Adapter adapter = inject(*model_, user_config(), user_tasks());
  fill_updates(adapter);
  const auto coding_before = context(adapter, {1, 1});
  const auto triage_before = context(adapter, {0, 0});
  const auto mixed_before = context(adapter, {0, 1});
  const at::Tensor coding = run(coding_before);
  merge_for_task(adapter, "triage");
  const at::Tensor triage = run(nn::RowContext::plain(segments_));
  for (const auto& refused : {refusal(coding_before), manual_refusal(coding_before), refusal(mixed_before),
                              manual_refusal(mixed_before), error_text([&] {
                                context(adapter, {1, 1});
                              }),
                              error_text([&] {
                                context(adapter, {0, 1});
                              })}) {
    EXPECT_TRUE(has(refused, "merged into the base as task triage") && has(refused, "coding")) << refused;
  }
  EXPECT_TRUE(has(error_text([&] { adapter->context(segments_, {{0, 2}, {0}}); }), "triage, dialogue"));
  // The merged task itself: as the merged model answers.
  EXPECT_TRUE(at::equal(run(triage_before), triage));
  EXPECT_TRUE(at::equal(run(context(adapter, {0, 0})), triage));
  EXPECT_EQ(manual_refusal(context(adapter, {0, 0})), "no error");

  merge_for_task(adapter, "coding");  // a switch
  EXPECT_TRUE(has(refusal(triage_before), "merged into the base as task coding"));
  EXPECT_TRUE(at::allclose(run(coding_before), coding, 1e-4, 1e-5));
  const auto made_while_merged = context(adapter, {1, 1});
  unmerge(adapter);
  EXPECT_TRUE(at::equal(run(made_while_merged), coding));
  EXPECT_EQ(refusal(triage_before), "no error");
}

TEST_F(Contexts, AreRefusedWhileAMixtureIsMerged) {
  Adapter adapter = inject(*model_, user_config(), user_tasks());
  fill_updates(adapter);
  merge_mixture(adapter, {{"triage", 0.5}, {"coding", 0.5}});
  const std::string refused = error_text([&] { context(adapter, {0, 0}); });
  EXPECT_TRUE(has(refused, "mix triage=0.5,coding=0.5") && has(refused, "task triage")) << refused;
  EXPECT_EQ(refusal(nn::RowContext::plain(segments_)), "no error");
  merge_mixture(adapter, {{"triage", 2.0}});
  EXPECT_TRUE(has(error_text([&] { context(adapter, {0, 0}); }), "mix triage=2"));
  merge_mixture(adapter, {{"triage", 1.0}});  // which is the task
  EXPECT_EQ(refusal(context(adapter, {0, 0})), "no error");
}

TEST_F(Contexts, OfTasksThatAreAlikeGoOnWhileOneIsMerged) {
  MoeLoraConfig config = user_config();
  config.routing = Routing::uniform;
  Adapter adapter = inject(*model_, config, user_tasks());
  fill_updates(adapter);
  const at::Tensor unmerged = run(adapter->context(segments_, {}));
  merge_for_task(adapter, "triage");
  EXPECT_TRUE(at::allclose(run(context(adapter, {1, 2})), unmerged, 1e-4, 1e-5));
  EXPECT_EQ(error_text([&] { adapter->context(segments_, {}); }), "no error");
}

TEST_F(Contexts, OfAnotherAdapterThanTheMergedOneAreAnError) {
  Adapter merged = inject(*model_, user_config(), user_tasks(), "merged");
  fill_updates(merged);
  Adapter other = inject(*model_, user_config(), user_tasks(), "other");
  other->disable();
  merge_for_task(merged, "triage");
  const std::string refused = refusal(context(other, {0, 0}));
  EXPECT_TRUE(has(refused, "made by adapter 'other'") && has(refused, "'merged' is merged")) << refused;
}

TEST_F(Contexts, PooledOnesServeOneRowOfEachSequence) {
  MoeLoraConfig config = user_config({"up", "down", "classifier"});
  config.dropout = 0.3;
  Adapter adapter = inject(*model_, config, user_tasks());
  fill_updates(adapter);
  const at::Tensor labels = at::tensor({0, 2}, at::kLong);
  const auto key = nn::DropoutKey::for_step(7, 0, 2);
  const auto gradients = [&](const std::function<at::Tensor()>& logits) {
    for (const at::Tensor& parameter : adapter->parameters()) {
      parameter.mutable_grad() = at::Tensor();
    }
    at::cross_entropy_loss(logits(), labels).backward();
    std::vector<at::Tensor> found;
    for (const at::Tensor& parameter : adapter->parameters()) {
      found.push_back(parameter.grad().clone());
    }
    return found;
  };
  const auto pooled = gradients([&] {
    return model_->forward(x_, adapter->context(segments_, single_tasks({0, 2}), key));
  });
  // By hand: a context of its own for B sequences of one row.
  const auto by_hand = gradients([&] {
    const at::Tensor mean = run(adapter->context(segments_, single_tasks({0, 2}), key)).mean(1);
    const auto rows = adapter->context(nn::Segments::for_batch(2, 1), single_tasks({0, 2}), key);
    return model_->head->forward(mean) + model_->classifier->forward(mean, rows);
  });
  ASSERT_EQ(pooled.size(), by_hand.size());
  for (std::size_t i = 0; i < pooled.size(); ++i) {
    EXPECT_TRUE(at::allclose(pooled[i], by_hand[i], 1e-5, 1e-7)) << i;
  }
  // Sequences of different lengths: still one row each.
  const auto uneven = adapter->context(nn::Segments::from_lengths({5, 3}, {5, 3}), single_tasks({0, 2})).pooled();
  EXPECT_EQ(uneven.rows(), 2);
  EXPECT_TRUE(at::equal(uneven.expert_weights, adapter->expert_weights(single_tasks({0, 2}))));
  EXPECT_TRUE(has(error_text([&] {
                    model_->classifier->forward(at::randn({2, 6}), adapter->context(segments_, single_tasks({0, 2})));
                  }),
                  "context.pooled()"));
}

}  // namespace
}  // namespace moelora
