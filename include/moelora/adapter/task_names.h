#pragma once
// The tasks of an adapter, by name wherever a person reads or writes them.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moelora {

/// Tasks of each sequence: one entry per sequence, each a list of task indices (0-based, in TaskNames order). One
/// index: that task. Several: a multi-hot sample, whose embedding is the mean of the tasks'.
using TaskIds = std::vector<std::vector<std::int64_t>>;

TaskIds single_tasks(const std::vector<std::int64_t>& tasks);

class TaskNames {
 public:
  TaskNames() = default;
  explicit TaskNames(std::vector<std::string> names);  ///< Error on an empty or repeated name.

  std::int64_t size() const { return static_cast<std::int64_t>(names_.size()); }
  const std::string& name(std::int64_t task) const;  ///< Error with the valid range.
  std::int64_t index(std::string_view name) const;   ///< Error that lists the known names and suggests the nearest.
  bool contains(std::string_view name) const;
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
};

}  // namespace moelora
