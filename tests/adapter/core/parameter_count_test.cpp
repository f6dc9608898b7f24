#include "moelora/adapter/parameter_count.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace moelora
