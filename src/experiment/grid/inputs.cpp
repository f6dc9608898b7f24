#include "moelora/experiment/inputs.h"

#include <map>

#include "experiment/grid/bench.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"
#include "moelora/log/log.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kNamedCells = 5;

/// How a changed hash is called in the error text.
const std::map<std::string, std::string> kTitles{{"train", "training records"},
                                                 {"validation", "validation records"},
                                                 {"evaluation", "evaluation records"},
                                                 {"task_prompts", "task prompts"},
                                                 {"base", "base model"}};

std::string hash_of_json_file(const std::string& path) {
  return path.empty() ? "" : io::Sha256().update(io::read_json_file(path).dump()).hex();
}

/// What differs, as "training records, base model"; empty if nothing does.
std::string changes_between(const ordered_json& then, const ordered_json& now) {
  std::string text;
  for (const auto& [key, title] : kTitles) {
    if (then.contains(key) && now.contains(key) && then[key] != now[key]) {
      text += (text.empty() ? "" : ", ") + title;
    }
  }
  return text;
}

}  // namespace

ordered_json input_hashes(const ExperimentConfig& config, const train::RunData& records,
                          const std::vector<data::Record>& references) {
  return {{"train", data::data_hash(records.train)},
          {"validation", data::data_hash(records.validation)},
          {"evaluation", data::data_hash(references)},
          {"task_prompts", hash_of_json_file(config.task_prompts)}};
}

ordered_json input_hashes(const ExperimentConfig& config) {
  const train::RunData records = train::read_run_data(config.data, config.training.seed);
  const TaskNames tasks(data::task_names_of(records.train));
  return input_hashes(config, records, evaluation_records(config, tasks));
}

void check_inputs_of_finished(const std::vector<Cell>& cells, const std::filesystem::path& output,
                              const ordered_json& now) {
  std::vector<std::string> changed;
  std::int64_t unknown = 0;
  for (const Cell& cell : cells) {
    if (!is_finished(output, cell)) {
      continue;
    }
    const ordered_json result = read_result(output, cell.id);
    const auto then = result.find("inputs");
    if (then == result.end()) {
      ++unknown;
      continue;
    }
    const std::string changes = changes_between(*then, now);
    if (!changes.empty()) {
      changed.push_back(cell.id + " (other " + changes + ")");
    }
  }
  if (unknown > 0) {
    log::warning(detail::concat(output.string(), ": ", unknown,
                                " finished cells don't say which records and base they were made with (an earlier "
                                "version wrote them); they are taken as they are"));
  }
  std::string text;
  for (std::size_t i = 0; i < std::min(changed.size(), kNamedCells); ++i) {
    text += "\n  " + changed[i];
  }
  if (changed.size() > kNamedCells) {
    text += detail::concat("\n  and ", changed.size() - kNamedCells, " more");
  }
  MOELORA_CHECK(changed.empty(), output.string(), " holds finished cells that were made with other inputs:", text,
                "\nrestore the files, choose another --output, or remove those cells' folders to run them anew");
}

}  // namespace moelora::experiment
