#include "moelora/adapter/task_names.h"

#include <gtest/gtest.h>

#include "moelora/io/error.h"

namespace moelora {
namespace {

std::string unknown_task_text(const TaskNames& tasks, const std::string& name) {
  try {
    tasks.index(name);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(TaskNames, FindsTasksByNameAndByNumber) {
  const TaskNames tasks({"CMeIE", "CHIP-CDN", "MedDG"});
  EXPECT_EQ(tasks.size(), 3);
  EXPECT_EQ(tasks.index("MedDG"), 2);
  EXPECT_EQ(tasks.name(1), "CHIP-CDN");
  EXPECT_TRUE(tasks.contains("CMeIE"));
  EXPECT_FALSE(tasks.contains("cmeie"));
}

TEST(TaskNames, AnUnknownNameListsTheKnownOnesAndSuggestsTheNearest) {
  const TaskNames tasks({"CMeIE", "CHIP-CDN", "MedDG"});
  const auto text = unknown_task_text(tasks, "MedGD");
  EXPECT_NE(text.find("did you mean 'MedDG'"), text.npos) << text;
  EXPECT_NE(text.find("CMeIE, CHIP-CDN, MedDG"), text.npos) << text;
}

TEST(TaskNames, ANumberOutOfRangeNamesTheRange) {
  EXPECT_THROW(TaskNames({"a", "b"}).name(2), Error);
  EXPECT_THROW(TaskNames({"a", "b"}).name(-1), Error);
}

TEST(TaskNames, EmptyAndRepeatedNamesAreErrors) {
  EXPECT_THROW(TaskNames({"a", ""}), Error);
  EXPECT_THROW(TaskNames({"a", "b", "a"}), Error);
}

TEST(TaskNames, SingleTasksAreListsOfOne) { EXPECT_EQ(single_tasks({2, 0}), (TaskIds{{2}, {0}})); }

}  // namespace
}  // namespace moelora
