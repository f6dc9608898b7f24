#include "moelora/adapter/task_names.h"

#include <algorithm>
#include <unordered_map>

#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/readable.h"

namespace moelora {

TaskIds single_tasks(const std::vector<std::int64_t>& tasks) {
  TaskIds ids;
  ids.reserve(tasks.size());
  for (const auto task : tasks) {
    ids.push_back({task});
  }
  return ids;
}

TaskNames::TaskNames(std::vector<std::string> names) : names_(std::move(names)) {
  std::unordered_map<std::string_view, std::size_t> first;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    MOELORA_CHECK(!names_[i].empty(), "task ", i, " has an empty name; give every task a name");
    const auto [known, fresh] = first.emplace(names_[i], i);
    MOELORA_CHECK(fresh, "tasks ", known->second, " and ", i, " are both named '", names_[i],
                  "'; give every task a name of its own");
  }
}

const std::string& TaskNames::name(std::int64_t task) const {
  MOELORA_CHECK(task >= 0 && task < size(), "no task number ", task, ": there are ", size(),
                " tasks, numbered from 0 to ", size() - 1);
  return names_[static_cast<std::size_t>(task)];
}

std::int64_t TaskNames::index(std::string_view name) const {
  const auto found = std::find(names_.begin(), names_.end(), name);
  if (found == names_.end()) {
    const auto nearest = io::nearest_name(name, names_);
    throw Error(detail::concat("unknown task '", name, "'", nearest.empty() ? "" : "; did you mean '" + nearest + "'?",
                               nearest.empty() ? "; " : " ",
                               "known tasks: ", names_.empty() ? "none" : io::joined(names_)));
  }
  return found - names_.begin();
}

bool TaskNames::contains(std::string_view name) const {
  return std::find(names_.begin(), names_.end(), name) != names_.end();
}

}  // namespace moelora
