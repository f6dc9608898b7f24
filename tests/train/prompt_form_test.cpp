#include "moelora/train/prompt_form.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "support/shared.h"

namespace moelora::train {
namespace {

using nlohmann::ordered_json;

std::optional<PromptForm> form_in(const ordered_json& adapter) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder.path() / "adapter.json") << adapter;
  return PromptForm::of_adapter(folder.path());
}

TEST(PromptForm, IsReadFromWhereTrainingWritesIt) {
  const PromptForm form{"none", "PRE:", "0123456789abcdef"};
  const auto read = form_in({{"provenance", {{"data", {{"prompts", form.to_json()}}}}}});
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->chat_template, "none");
  EXPECT_EQ(read->source_prefix, "PRE:");
  EXPECT_EQ(read->task_prompts, "0123456789abcdef");
}

TEST(PromptForm, OfAnAdapterThatDoesNotSayIsNone) {
  EXPECT_FALSE(form_in({{"config", 1}}).has_value());
  EXPECT_FALSE(form_in({{"provenance", "a text"}}).has_value());
  EXPECT_FALSE(form_in({{"provenance", {{"data", {{"records", 3}}}}}}).has_value());
  EXPECT_FALSE(form_in({{"provenance", {{"data", {{"prompts", "none"}}}}}}).has_value());
}

}  // namespace
}  // namespace moelora::train
