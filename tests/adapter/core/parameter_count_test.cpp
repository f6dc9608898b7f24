#include "moelora/adapter/parameter_count.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "adapter/user_model.h"

namespace moelora {
namespace {

TEST(ParameterCount, TellsUpdatesFromWhatChoosesAmongExperts) {
  testing::UserModel model;
  MoeLoraConfig config = testing::user_config();  // rank 4 on 6 → 10 and 10 → 6; 2 experts, embeddings of 8, 3 tasks
  Adapter gated = inject(*model, config, testing::user_tasks());
  ParameterCount count = count_parameters(*gated);
  EXPECT_EQ(count.linears, 2);
  EXPECT_EQ(count.updates, 2 * 4 * (6 + 10));
  EXPECT_EQ(count.gates, (3 + 2) * 8);
  EXPECT_EQ(count.prefix + count.saved, 0);
  eject(gated);
  config.routing = Routing::token;
  config.modules_to_save = {"head"};
  Adapter routed = inject(*model, config, testing::user_tasks());
  count = count_parameters(*routed);
  EXPECT_EQ(count.updates, 2 * 4 * (6 + 10));
  EXPECT_EQ(count.gates, 2 * (6 + 10));
  EXPECT_EQ(count.saved, 6 * 3 + 3);
}

TEST(ParameterCount, IsKnownBeforeAnAdapterIsMade) {
  testing::UserModel model;
  for (const auto& [delta, routing] : std::vector<std::pair<const char*, Routing>>{
           {"moelora", Routing::task}, {"moelora", Routing::token}, {"mtl-lora", Routing::single}}) {
    MoeLoraConfig config = testing::user_config();
    config.rank = 6;
    config.num_experts = 3;
    config.delta = delta;
    config.routing = routing;
    const std::int64_t planned = planned_parameter_count(*model, config, 3);
    Adapter adapter = inject(*model, config, testing::user_tasks());
    const ParameterCount count = count_parameters(*adapter);
    EXPECT_EQ(planned, count.updates + count.gates) << delta;
    eject(adapter);
  }
}

}  // namespace
}  // namespace moelora
