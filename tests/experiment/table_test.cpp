#include "experiment/report/table.h"

#include <gtest/gtest.h>

namespace moelora::experiment {
namespace {

TEST(ExperimentTable, WhatReadsTheSameIsMarkedAlike) {
  const auto marks = marks_of({0.72351, 0.72449, std::nullopt, 0.72349, 0.72251, 0.7});
  EXPECT_EQ(marks, (std::vector<Mark>{Mark::best, Mark::best, Mark::none, Mark::second, Mark::second, Mark::none}));
  EXPECT_EQ(percent(0.72351), percent(0.72449));
  EXPECT_EQ(percent(0.72349), percent(0.72251));
  EXPECT_EQ(marks_of({0.5, std::nullopt}), (std::vector<Mark>{Mark::none, Mark::none}));
}

TEST(ExperimentTable, ItsPartsHaveItsColumnsAndTheNoteOnce) {
  const auto cell = [](const char* text, Mark mark = Mark::none) { return TableCell{text, "", mark, 0, false}; };
  Table table;
  table.columns = {{"method", false}, {"seeds"}, {"A"}, {"B"}};
  table.lines = {{cell("X"), cell("3"), cell("1.0", Mark::best), cell("2.0", Mark::second)}};
  table.note = "Percent.";
  EXPECT_EQ(to_markdown(summary_of(table, 2)), "| method | seeds |\n| --- | ---: |\n| X | 3 |\n\nPercent.\n");
  EXPECT_EQ(to_markdown(rest_of(table, 2)),
            "| method | A | B |\n| --- | ---: | ---: |\n| X | **1.0** | *2.0* |\n\nIn italics: second best.\n");
  EXPECT_EQ(summary_of(table, 9).columns.size(), 4U);
  EXPECT_EQ(rest_of(table, 9).columns.size(), 1U);
}

}  // namespace
}  // namespace moelora::experiment
