// MTL-LoRA on the pretend device: the CPU's losses, gradients and tokens, and operators that don't grow with the batch.
#include <gtest/gtest.h>

#include "device/adapted_model.h"
#include "moelora/adapter/merge.h"
#include "moelora/adapter/mtl_lora_linear.h"
#include "moelora/model/generation.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)
namespace pretend = testing::pretend;

void three_matrices(MoeLoraConfig& config) {
  config.delta = "mtl-lora";
  config.routing = Routing::single;
  config.num_experts = 3;
}

AdaptedModel made_on(const at::Device& device, at::ScalarType dtype = at::kFloat) {
  AdaptedModel made = adapted_model(device, dtype, three_matrices);
  at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(3);
  for (const auto& linear : made.adapter->linears()) {
    at::Tensor lambda = linear.delta->tensor("Lambda");
    lambda.add_(at::empty(lambda.sizes()).normal_(0.0, 0.3, generator).to(device));
  }
  return made;
}

TEST(DeviceMtlLora, GradientsEqualTheCpus) {
  AdaptedModel host = made_on(at::kCPU), device = made_on(pretend_device());
  const auto examples = train::fixture::toy_examples(7);
  const train::GradientOptions options{.dropout_seed = 7, .micro_batch_tokens = 24};
  for (AdaptedModel* made : {&host, &device}) {
    train::begin_gradients(*made->model, made->adapter.get(), samples_of(examples), options).read();
  }
  Worst worst;
  const auto expected = host.adapter->named_parameters();
  for (const auto& parameter : device.adapter->named_parameters()) {
    ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
    worst.add(parameter.value().grad(), expected[parameter.key()].grad(), parameter.key());
  }
  EXPECT_LE(worst.distance, 1e-4) << worst.name;
}

TEST(DeviceMtlLora, TokensOfMixedTasksEqualTheCpus) {
  const std::vector<model::Prompt> prompts{
      {{10, 11, 12, 501, 504}, 4}, {{20, 501, 504}, 2}, {{30, 31, 32, 33, 34, 35, 36, 501, 504}, 8}};
  model::GenerationOptions options;
  options.max_new_tokens = 8;
  options.end_ids = {505};
  // In fp32: in half precision rounding decides between tokens that are nearly alike.
  AdaptedModel host = made_on(at::kCPU), device = made_on(pretend_device());
  std::vector<std::vector<model::Generation>> found;
  for (AdaptedModel* made : {&host, &device}) {
    made->adapter->eval();
    found.push_back(model::generate(*made->model, prompts, options, for_tasks(made->adapter, {{0}, {1}, {2}})));
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(found[1][i].ids, found[0][i].ids) << i;
  }
}

TEST(DeviceMtlLora, ATaskIsMergedAndUnmerged) {
  AdaptedModel made = made_on(pretend_device());
  const at::Tensor before = made.adapter->linears().front().base->weight.cpu();
  merge_for_task(made.adapter, "echo");
  EXPECT_FALSE(at::equal(made.adapter->linears().front().base->weight.cpu(), before));
  unmerge(made.adapter);
  EXPECT_TRUE(at::equal(made.adapter->linears().front().base->weight.cpu(), before));
}

TEST(DeviceMtlLora, OperatorsDoNotGrowWithSegmentsOrTasksAndNothingWaits) {
  std::vector<std::int64_t> forward, backward;
  for (const auto& [segments, tasks] : std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 2}, {12, 2}, {48, 10}}) {
    MoeLoraConfig config;
    three_matrices(config);
    config.num_experts = tasks;
    config.rank = 16;
    config.dropout = 0.1;
    MtlLoraLinear delta(512, 260, config, 0, 7);
    delta->to(pretend_device());
    const std::vector<std::int64_t> lengths(static_cast<std::size_t>(segments), 96 / segments);
    nn::RowContext context = nn::RowContext::plain(nn::Segments::from_lengths(lengths), pretend_device(),
                                                   {5, std::vector<std::int64_t>(lengths.size(), 3)});
    context.expert_weights =
        at::one_hot(at::arange(segments) % tasks, tasks).to(at::kFloat).unsqueeze(0).to(pretend_device());
    const at::Tensor x = at::randn({96, 512}).to(pretend_device()), dy = at::randn({96, 260}).to(pretend_device());
    at::Tensor tape;
    pretend::reset();
    delta->begin_forward(x, {}, context, tape);
    const pretend::Counters forth = pretend::counters();
    at::Tensor dx = at::zeros_like(x);
    nn::DeltaGradients found;
    pretend::reset();
    delta->finish_backward(dy, nn::StoredRows(x), tape, context, dx, found);
    const pretend::Counters back = pretend::counters();
    EXPECT_EQ(forth.waits + back.waits + forth.uploads + back.uploads, 0) << forth.to_text() << back.to_text();
    forward.push_back(forth.operators);
    backward.push_back(back.operators);
  }
  EXPECT_EQ(forward, std::vector<std::int64_t>(3, forward.front()));
  EXPECT_EQ(backward, std::vector<std::int64_t>(3, backward.front()));
  EXPECT_LE(forward.front(), 9);
  EXPECT_LE(backward.front(), 20);
}

}  // namespace
}  // namespace moelora
