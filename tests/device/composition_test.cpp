// Adapters composed of others on the pretend device: task vectors, LoRAHub's mixtures, a new task.
#include <gtest/gtest.h>

#include "device/adapted_model.h"
#include "moelora/adapter/expert_factors.h"
#include "moelora/adapter/lorahub.h"
#include "moelora/adapter/new_task.h"
#include "moelora/adapter/task_vectors.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)

void two_loras(MoeLoraConfig& config) {
  config.routing = Routing::table;
  config.num_experts = 2;
  config.table = {{1, 0}, {0, 1}, {0.5, 0.5}};
}

double evaluate(AdaptedModel& made) {
  const auto examples = train::fixture::toy_examples(7);
  std::vector<const data::Example*> all;
  for (const auto& example : examples) {
    all.push_back(&example);
  }
  return train::evaluate_losses(*made.model, made.adapter.get(), all, 64).sum();
}

TEST(DeviceComposition, ChangedTablesEqualTheCpus) {
  AdaptedModel host = adapted_model(at::kCPU, at::kFloat, two_loras),
               device = adapted_model(pretend_device(), at::kFloat, two_loras);
  for (const double weight : {0.0, 1.0, -0.7}) {  // a search's calls
    const std::vector<std::vector<double>> table(3, {weight, 0.3});
    host.adapter->set_table(table);
    device.adapter->set_table(table);
    const double expected = evaluate(host);
    EXPECT_NEAR(evaluate(device), expected, 1e-6 * expected) << weight;
  }
}

// Factors and updates of one expert each, from and into adapters on the device.
TEST(DeviceComposition, ExpertsAreComposedAsOnTheCpu) {
  AdaptedModel host = adapted_model(at::kCPU, at::kFloat, two_loras),
               device = adapted_model(pretend_device(), at::kFloat, two_loras);
  std::vector<double> losses;
  for (AdaptedModel* made : {&host, &device}) {
    const auto first = expert_factors(*made->adapter, 0), second = expert_factors(*made->adapter, 1);
    std::vector<nn::LowRank> composed;
    for (std::size_t i = 0; i < first.size(); ++i) {
      composed.push_back(compose_factors({first[i], second[i]}, {0.6, 0.3}));
      const nn::LowRank both = compose_updates({first[i], second[i]}, {0.6, 0.3});
      EXPECT_EQ(both.A.device(), first[i].A.device());
    }
    set_expert_factors(*made->adapter, 0, composed);
    losses.push_back(evaluate(*made));
  }
  EXPECT_NEAR(losses[1], losses[0], 1e-6 * losses[0]);
}

TEST(DeviceComposition, TaskVectorsOfADeviceEqualTheCpus) {
  AdaptedModel host = adapted_model(at::kCPU), device = adapted_model(pretend_device());
  const auto vectors_of = [](const AdaptedModel& made) {
    std::vector<TaskVector> tasks;
    at::NoGradGuard no_grad;
    for (std::int64_t task = 0; task < 3; ++task) {
      const at::Tensor omega = made.adapter->expert_weights(single_tasks({task})).select(1, 0);
      tasks.emplace_back();
      for (const auto& linear : made.adapter->linears()) {
        tasks.back().push_back(linear.delta->low_rank(omega).update().dense().to(at::kCPU, at::kFloat));
      }
    }
    return tasks;
  };
  const auto expected = ties(vectors_of(host)), found = ties(vectors_of(device));
  Worst worst;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst.add(found[i], expected[i], std::to_string(i));
  }
  EXPECT_LE(worst.distance, 1e-5) << worst.name;
}

TEST(DeviceComposition, ANewTaskEqualsTheCpus) {
  std::vector<double> losses;
  for (const at::Device where : {at::Device(at::kCPU), pretend_device()}) {
    AdaptedModel made = adapted_model(where);
    made.adapter = with_new_task(*made.model, *made.adapter, "new", "second");
    const at::Tensor weights = made.adapter->expert_weights(single_tasks({3}));
    EXPECT_EQ(weights.device().type(), where.type());
    losses.push_back(weights.cpu().flatten()[0].item<double>());
    losses.push_back(evaluate(made));
  }
  EXPECT_NEAR(losses[2], losses[0], 1e-6);
  EXPECT_NEAR(losses[3], losses[1], 1e-6 * losses[1]);
}

}  // namespace
}  // namespace moelora
