#pragma once
// How many records each task has, and which task names may be one task written in several ways.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/data/record.h"

namespace moelora::data {

struct TaskCount {
  std::string task;
  std::int64_t records = 0;
};

/// In order of first appearance.
std::vector<TaskCount> count_tasks(const std::vector<Record>& records);

/// A task's name without what people write differently: blanks at the ends are dropped, runs of blanks, '_' and '-' are
/// one '-', full-width letters, digits and signs become half-width ones, capital letters (Latin, Greek, Cyrillic)
/// become small ones, invisible characters are dropped.
std::string folded_task_name(std::string_view task);

/// The tasks whose folded names are equal, two or more in each group.
std::vector<std::vector<TaskCount>> near_twins(const std::vector<TaskCount>& tasks);

/// "'MedDG' (12 records), 'MedDG ' (3 records)"
std::string list_of_tasks(const std::vector<TaskCount>& tasks);

}  // namespace moelora::data
