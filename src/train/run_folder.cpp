#include "moelora/train/run_folder.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"
#include "moelora/io/folder_lock.h"
#include "moelora/log/log.h"

namespace moelora::train {
namespace {

constexpr const char* kLogFile = "log.jsonl";
constexpr const char* kCheckpoints = "checkpoints";
constexpr const char* kSetAside = "set-aside-";
constexpr const char* kResults[] = {"adapter", "model"};

bool is_run_log(const std::filesystem::path& path) {
  std::ifstream stream(path);
  std::string line;
  if (!std::getline(stream, line)) {
    return stream.eof() && !stream.bad() && std::filesystem::is_regular_file(path);  // no step is done
  }
  return line.starts_with("{\"step\":");  // perhaps cut off
}

bool is_run_config(const std::filesystem::path& path) {
  std::ifstream stream(path);
  const auto json = nlohmann::ordered_json::parse(stream, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains("data") && json.contains("training");
}

bool is_unfinished(const std::filesystem::path& path) {
  return path.filename().string().find(".tmp-") != std::string::npos;  // io/atomic_file.h
}

bool has_only_unfinished(const std::filesystem::path& folder) {
  std::error_code failure;
  std::filesystem::directory_iterator entry(folder, failure);
  return !failure && std::all_of(begin(entry), end(entry), [](const auto& each) { return is_unfinished(each.path()); });
}

/// What a run may have written before its log.
bool may_be_of_a_beginning(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  return name == io::FolderLock::kFileName || is_unfinished(path) || name.starts_with(kSetAside) ||
         (name == kCheckpoints && has_only_unfinished(path)) || (name == "config.json" && is_run_config(path));
}

}  // namespace

void check_run_folder(const std::filesystem::path& folder) {
  std::error_code failure;
  if (!std::filesystem::exists(folder, failure) && !failure) {
    return;
  }
  MOELORA_CHECK(std::filesystem::is_directory(folder, failure), folder.string(),
                ": expected the folder of a run, found a file; choose another output folder");
  const bool has_log = std::filesystem::exists(folder / kLogFile, failure);
  if (!CheckpointFolder(folder / kCheckpoints).steps().empty() || (has_log && is_run_log(folder / kLogFile))) {
    return;
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    MOELORA_CHECK(may_be_of_a_beginning(entry.path()), folder.string(),
                  " is not the folder of a run: there are no checkpoints and no log of steps, but ",
                  entry.path().filename().string(), "; nothing was changed, name the folder that training wrote");
  }
}

void set_aside(const std::filesystem::path& output, const CheckpointFolder& checkpoints, std::int64_t step, bool result,
               bool log) {
  namespace fs = std::filesystem;
  std::vector<std::int64_t> later;
  for (const std::int64_t present : checkpoints.steps()) {
    if (present > step) {
      later.insert(later.begin(), present);  // the newest first: whatever is left is always the run up to some step
    }
  }
  std::vector<fs::path> results;
  for (const char* name : kResults) {
    if (result && fs::exists(output / name)) {
      results.emplace_back(name);
    }
  }
  const bool has_log = fs::exists(output / kLogFile) && fs::file_size(output / kLogFile) > 0;
  if (later.empty() && results.empty() && !(log && has_log)) {
    return;
  }
  fs::path folder;
  for (int number = 1; folder.empty() || fs::exists(folder); ++number) {
    folder = output / (kSetAside + std::to_string(number));
  }
  try {
    fs::create_directories(folder / kCheckpoints);
    if (has_log) {
      fs::copy_file(output / kLogFile, folder / kLogFile);
    }
    for (const fs::path& name : results) {
      fs::rename(output / name, folder / name);
    }
    for (const std::int64_t present : later) {
      const fs::path from = checkpoints.path_of(present);
      fs::rename(from, folder / kCheckpoints / from.filename());
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(detail::concat("cannot move what comes after step ", step, " to ", folder.string(), ": ",
                               error.code().message(), "; free space or make it possible to write there"));
  }
  std::string what = later.empty() ? "" : "the checkpoints " + listed_steps({later.rbegin(), later.rend()}) + ", ";
  for (const fs::path& name : results) {
    what += "the result in " + name.string() + ", ";
  }
  log::warning(what + (has_log ? "and the log as it was " : "") + "are kept in " + folder.string() +
               "; they are no part of the run any more, delete them when you don't need them");
}

std::string advice_to_go_back(const std::filesystem::path& output) {
  std::vector<std::int64_t> steps;
  try {
    steps = CheckpointFolder(output / kCheckpoints).steps();
  } catch (const Error&) {
    // The advice is part of another error.
  }
  if (steps.empty()) {
    return "begin again with a lower learning rate (there is no checkpoint to go back to)";
  }
  return "lower the learning rate from an earlier checkpoint on: --resume-from step-" + std::to_string(steps.front()) +
         " --set training.learning_rate=… (there are " + listed_steps(steps) + ")";
}

}  // namespace moelora::train
