#include "experiment/few_examples.h"

#include <algorithm>

#include "moelora/data/split.h"
#include "moelora/io/error.h"

namespace moelora::experiment {

std::vector<data::Record> few_examples(const std::vector<data::Record>& records, const std::string& task,
                                       std::int64_t count, std::uint64_t seed) {
  std::vector<std::pair<std::uint64_t, const data::Record*>> of_task;
  for (const data::Record& record : records) {
    if (record.task == task) {
      of_task.emplace_back(data::record_hash(record, seed ^ 0x66657721ull), &record);
    }
  }
  MOELORA_CHECK(!of_task.empty(), "no training record of task ", task, " to take examples from");
  std::stable_sort(of_task.begin(), of_task.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<data::Record> chosen;
  for (std::size_t i = 0; i < of_task.size() && static_cast<std::int64_t>(i) < count; ++i) {
    chosen.push_back(*of_task[i].second);
  }
  return chosen;
}

}  // namespace moelora::experiment
