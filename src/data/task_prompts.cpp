#include "moelora/data/task_prompts.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_reader.h"

namespace moelora::data {
namespace {

constexpr std::string_view kDefaultTask = "default";

}  // namespace

TaskPrompts::TaskPrompts(const nlohmann::ordered_json& json, std::string source) : source_(std::move(source)) {
  io::JsonReader reader(json, source_);
  if (json.is_object()) {
    for (const auto& [task, description] : json.items()) {
      if (reader.read(task, descriptions_[task])) {
        names_.push_back(task);
      }
    }
  }
  reader.finish();
  MOELORA_CHECK(!names_.empty(), source_,
                ": expected a description for each task, found none; add {\"TASK\": \"what is asked\"}");
}

TaskPrompts TaskPrompts::from_file(const std::filesystem::path& path) {
  return path.empty() ? TaskPrompts() : TaskPrompts(io::read_json_file(path), path.string());
}

std::string TaskPrompts::text(std::string_view task) const {
  if (empty()) {
    return {};
  }
  auto found = descriptions_.find(task);
  if (found == descriptions_.end()) {
    found = descriptions_.find(kDefaultTask);
  }
  if (found == descriptions_.end()) {
    std::string known;
    for (const std::string& name : names_) {
      known += (known.empty() ? "" : ", ") + name;
    }
    const std::string nearest = io::nearest_name(task, names_);
    throw Error(detail::concat(source_, ": no prompt for task '", task, "'",
                               nearest.empty() ? "" : ", did you mean '" + nearest + "'?", "; known: ", known,
                               "; add the task, or \"", kDefaultTask, "\" for every other one"));
  }
  return "任务：" + std::string(task) + "。" + found->second + "\n";
}

Record TaskPrompts::apply(Record record) const {
  record.input.insert(0, text(record.task));
  return record;
}

std::vector<Record> TaskPrompts::apply_all(std::vector<Record> records) const {
  for (Record& record : records) {
    record = apply(std::move(record));
  }
  return records;
}

}  // namespace moelora::data
