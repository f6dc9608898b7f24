#include "moelora/verify/merge_check.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "moelora/adapter/foreign.h"
#include "moelora/io/finite.h"
#include "moelora/model/chatglm/load.h"
#include "support/shared.h"

namespace moelora::verify {
namespace {

struct MergeCheckFixture {
  MergeCheckFixture()
      : model(model::load_chatglm(testing::fixtures() / "chatglm-tiny")),
        adapter(load_foreign_adapter(*model, testing::fixtures() / "moelora-tiny")) {
    options.generation.max_new_tokens = 4;
  }
  MergeCheck check(const std::vector<model::TokenIds>& ids) {
    std::vector<model::Prompt> prompts;
    for (const model::TokenIds& each : ids) {
      prompts.push_back({each, static_cast<std::int64_t>(each.size()) - 1});
    }
    return check_merge(*model, adapter, "task2", prompts, options, {}, certificate);
  }
  model::ChatGlm model;
  Adapter adapter;
  MergeCheckOptions options;
  Certificate certificate;
};

TEST(MergeCheck, EqualAnswersPassAndNoPromptsAreAnError) {
  MergeCheckFixture fixture;
  EXPECT_THROW(fixture.check({}), Error);
  EXPECT_FALSE(is_merged(fixture.adapter));
  const MergeCheck check = fixture.check({{10, 11, 12, 501, 504}, {20, 21, 501, 504}});
  EXPECT_EQ(check.prompts, 2);
  EXPECT_EQ(check.equal + check.undecided, 2);
  EXPECT_TRUE(check.passed());
  EXPECT_EQ(check.to_json()["passed"], true);
  EXPECT_FALSE(MergeCheck{}.passed()) << "nothing compared";
}

TEST(MergeCheck, LogitsThatAreNotFiniteNameTheAdaptersWeight) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    MergeCheckFixture fixture;
    {
      at::NoGradGuard no_grad;
      fixture.adapter->linears()[5].delta->tensor("B").view(-1)[3] = bad;
    }
    const std::string linear = fixture.adapter->linears()[5].name;
    try {
      fixture.check({{10, 11, 12, 501, 504}});
      FAIL() << "compared";
    } catch (const io::NotFinite& error) {
      EXPECT_NE(std::string(error.what()).find("the adapter's B of " + linear), std::string::npos) << error.what();
    }
    EXPECT_FALSE(is_merged(fixture.adapter));
  }
}

}  // namespace
}  // namespace moelora::verify
