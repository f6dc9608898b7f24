#include "moelora/data/task_prompts.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "io/raises.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

using io::raises;
using Json = nlohmann::ordered_json;

Record question_of(const std::string& task) {
  Record record;
  record.task = task;
  record.input = "头痛\n答：";
  record.target = "是";
  record.sample_id = "7";
  record.answer_choices = {"是", "否"};
  record.history = {{"你好", "请说"}};
  return record;
}

TEST(TaskPrompts, StandInFrontOfTheInputAndChangeNothingElse) {
  const TaskPrompts prompts(Json{{"CMeIE", "找关系"}, {"MedDG", "写回复"}});
  const Record asked = prompts.apply(question_of("MedDG"));
  EXPECT_EQ(asked.input, "任务：MedDG。写回复\n头痛\n答：");
  Record rest = asked;
  rest.input = question_of("MedDG").input;
  EXPECT_EQ(to_json(rest), to_json(question_of("MedDG")));
  const std::vector<Record> all = prompts.apply_all({question_of("CMeIE"), question_of("MedDG")});
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].input, "任务：CMeIE。找关系\n头痛\n答：");
  EXPECT_EQ(all[1].input, asked.input);
}

TEST(TaskPrompts, NameTheKnownTasksWhenOneIsUnknown) {
  const TaskPrompts prompts(Json{{"CMeIE", "a"}, {"MedDG", "b"}}, "prompts.json");
  EXPECT_TRUE(raises([&] { prompts.apply(question_of("MedDC")); },
                     "prompts.json: no prompt for task 'MedDC', did you mean 'MedDG'?; known: CMeIE, MedDG"));
  const TaskPrompts with_default(Json{{"CMeIE", "a"}, {"default", "其他"}});
  EXPECT_EQ(with_default.text("MedDC"), "任务：MedDC。其他\n");
  EXPECT_EQ(with_default.text("CMeIE"), "任务：CMeIE。a\n");
}

TEST(TaskPrompts, NoneLeaveRecordsAsTheyAre) {
  const TaskPrompts none = TaskPrompts::from_file("");
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none.apply(question_of("x")).input, question_of("x").input);
}

TEST(TaskPrompts, RefuseWhatIsNoMapOfTexts) {
  EXPECT_TRUE(raises([] { return TaskPrompts(Json::object()); }, "found none"));
  EXPECT_TRUE(raises([] { TaskPrompts(Json::array({"a"})); }, "expected an object"));
  EXPECT_TRUE(raises([] { TaskPrompts(Json{{"CMeIE", 3}, {"MedDG", "b"}}); }, "CMeIE: expected a string"));
  EXPECT_TRUE(raises([] { TaskPrompts::from_file("/no/such/prompts.json"); }, "/no/such/prompts.json"));
}

TEST(TaskPrompts, AreShippedForEveryTaskOfPromptCblue) {
  const auto prompts =
      TaskPrompts::from_file(std::filesystem::path(MOELORA_SOURCE_DIR) / "configs" / "task_prompts.json");
  for (const char* task :
       {"CMeEE-V2", "CMeIE", "CHIP-CDN", "CHIP-CDEE", "CHIP-STS", "CHIP-CTC", "CHIP-MDCFNPC", "KUAKE-IR", "KUAKE-QIC",
        "KUAKE-QQR", "KUAKE-QTR", "IMCS-V2-NER", "IMCS-V2-DAC", "IMCS-V2-SR", "IMCS-V2-MRG", "MedDG"}) {
    const std::string text = prompts.text(task);
    EXPECT_TRUE(text.starts_with("任务：" + std::string(task) + "。")) << text;
    EXPECT_GT(text.size(), std::string("任务：。\n").size() + std::string(task).size() + 15) << text;
  }
}

}  // namespace
}  // namespace moelora::data
