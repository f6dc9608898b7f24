#include "moelora/data/task_counts.h"

#include <gtest/gtest.h>

namespace moelora::data {
namespace {

TEST(TaskCounts, AreInOrderOfFirstAppearance) {
  std::vector<Record> records(5);
  const char* tasks[] = {"B", "A", "B", "C", "B"};
  for (std::size_t i = 0; i < records.size(); ++i) {
    records[i].task = tasks[i];
  }
  EXPECT_EQ(list_of_tasks(count_tasks(records)), "'B' (3 records), 'A' (1 record), 'C' (1 record)");
}

TEST(TaskCounts, NamesThatOnlyPeopleWriteDifferentlyAreTwins) {
  for (const char* twin : {"CHIP-CDN", "CHIP-CDN ", " CHIP-CDN", "chip-cdn", "Chip_CDN", "CHIP CDN", "CHIP  -  CDN",
                           "CHIP\tCDN", "ＣＨＩＰ－ＣＤＮ", "CHIP–CDN", "CHIP-CDN\xc2\xa0",
                           "\xef\xbb\xbf"
                           "CHIP-CDN",
                           "CHIP-\xe2\x80\x8b"
                           "CDN",
                           "CHIP　CDN"}) {
    EXPECT_EQ(folded_task_name(twin), "chip-cdn") << twin;
  }
  EXPECT_EQ(folded_task_name("ÉTUDE"), folded_task_name("étude"));
  EXPECT_EQ(folded_task_name("ДОЗА"), folded_task_name("доза"));
  EXPECT_EQ(folded_task_name("医疗问答 "), "医疗问答");
  for (const char* other : {"CHIP-CDEE", "CHIPCDN", "CHIP-CDN2", "", "CHIP"}) {
    EXPECT_NE(folded_task_name(other), "chip-cdn") << other;
  }
  EXPECT_NE(folded_task_name("-a"), folded_task_name("a"));
}

TEST(TaskCounts, TwinsComeInGroups) {
  const auto groups =
      near_twins({{"MedDG", 3}, {"CMeIE", 2}, {"meddg", 1}, {"MedDG ", 4}, {"CHIP_CTC", 1}, {"CHIP-CTC", 1}});
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(list_of_tasks(groups[0]), "'MedDG' (3 records), 'meddg' (1 record), 'MedDG ' (4 records)");
  EXPECT_EQ(list_of_tasks(groups[1]), "'CHIP_CTC' (1 record), 'CHIP-CTC' (1 record)");
  EXPECT_TRUE(near_twins({{"a", 1}, {"b", 1}}).empty());
}

}  // namespace
}  // namespace moelora::data
