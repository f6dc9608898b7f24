#include "moelora/train/data_files.h"

#include <nlohmann/json.hpp>
#include <set>
#include <unordered_set>
#include <utility>

#include "moelora/data/sampler.h"
#include "moelora/data/task_counts.h"
#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"
#include "moelora/log/log.h"

namespace moelora::train {
namespace {

using nlohmann::ordered_json;

void read_entry(const ordered_json& json, const std::string& where, DataFile& file, std::string& problems) {
  const auto problem = [&](const std::string& text) { problems += (problems.empty() ? "" : "\n") + text; };
  if (json.is_string()) {
    file.path = json.get<std::string>();
    return;
  }
  if (!json.is_object()) {
    problem(where + ": expected a file's name or {\"file\": …, \"weight\": …, \"fields\": …}, found " + json.dump());
    return;
  }
  io::JsonReader reader(json, where);
  reader.read("file", file.path);
  if (reader.read("weight", file.weight) &&
      !(file.weight >= data::Sampler::kLeastWeight && file.weight <= data::Sampler::kMostWeight)) {
    reader.problem("weight", detail::concat("expected a number from ", data::Sampler::kLeastWeight, " to ",
                                            data::Sampler::kMostWeight, ", found ", file.weight));
  }
  if (ordered_json fields; reader.read("fields", fields) && !fields.is_null()) {
    try {
      file.fields = data::FieldMap::from_json(fields, where + ".fields");
    } catch (const Error& error) {
      reader.problem("fields", error.what());
    }
  }
  try {
    reader.finish();
  } catch (const Error& error) {
    problem(error.what());
  }
}

std::string record_key(const data::Record& record) { return data::data_hash({record}); }

}  // namespace

DataFiles data_files_from_json(const ordered_json& json, const std::string& where) {
  if (json.is_null()) {
    return {};
  }
  if (json.is_string()) {
    return {json.get<std::string>(), {}};
  }
  DataFiles result;
  std::string problems;
  std::set<std::string> seen;
  const ordered_json list = json.is_array() ? json : ordered_json::array({json});
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string place = json.is_array() ? detail::concat(where, "[", i, "]") : where;
    DataFile& file = result.files.emplace_back();
    read_entry(list[i], place, file, problems);
    if (file.path.empty() && problems.empty()) {
      problems = place + ": the name of the file is missing";
    } else if (!file.path.empty() && !seen.insert(file.path).second) {
      problems += (problems.empty() ? "" : "\n") + place + ": " + file.path +
                  " is listed twice; say once how often it counts, with a weight";
    }
  }
  if (result.files.empty()) {
    problems = where + ": expected one file or more, found an empty list";
  }
  MOELORA_CHECK(problems.empty(), problems);
  return result;
}

ordered_json to_json(const std::string& path, const std::vector<DataFile>& files) {
  if (files.empty()) {
    return path.empty() ? ordered_json(nullptr) : ordered_json(path);
  }
  ordered_json list = ordered_json::array();
  for (const DataFile& file : files) {
    ordered_json one{{"file", file.path}, {"weight", file.weight}};
    if (file.fields) {
      one["fields"] = file.fields->to_json();
    }
    list.push_back(std::move(one));
  }
  return list;
}

std::vector<DataFile> listed(const std::string& path, const std::vector<DataFile>& files) {
  return path.empty() ? files : std::vector<DataFile>{{path, 1.0, std::nullopt}};
}

std::string title_of(const std::vector<DataFile>& files) {
  std::string text;
  for (const DataFile& file : files) {
    text += (text.empty() ? "" : ", ") + file.path;
  }
  return text;
}

std::vector<data::Record> read_and_report(const std::vector<DataFile>& files, const data::ReadOptions& options,
                                          std::vector<std::string>* left_out) {
  std::vector<data::Record> records;
  std::unordered_set<std::string> seen;
  for (const DataFile& file : files) {
    data::ReadOptions read = options;
    read.fields = file.fields.value_or(options.fields);
    data::RecordFile one = data::read_records(file.path, read);
    for (const std::string& problem : one.problems) {
      log::warning("left out: " + problem);
    }
    if (left_out != nullptr) {
      left_out->insert(left_out->end(), one.problems.begin(), one.problems.end());
    }
    for (const std::string& warning : one.warnings) {
      log::warning(file.path + ": " + warning);
    }
    for (data::Record& record : one.records) {
      if (files.size() > 1) {
        if (options.deduplicate && !seen.insert(record_key(record)).second) {
          ++one.duplicates;
          continue;
        }
        record.file = file.path;
      }
      record.weight = file.weight;
      records.push_back(std::move(record));
    }
    if (one.duplicates > 0) {
      log::info(file.path + ": " + std::to_string(one.duplicates) + " duplicates left out");
    }
    const auto with_first = static_cast<std::int64_t>(one.records.size()) - one.fallback_tasks;
    if (one.fallback_tasks > 0 && with_first > 0 && read.fields.prediction.empty()) {
      log::warning(detail::concat(file.path, ": ", with_first, " records say their task in the field \"",
                                  read.fields.task.front().text, "\", ", one.fallback_tasks,
                                  " do not and got another name; say it in all of them or in none"));
    }
  }
  for (const auto& twins : data::near_twins(data::count_tasks(records))) {
    log::warning(title_of(files) + ": these names may mean one task, but count as " + std::to_string(twins.size()) +
                 ": " + data::list_of_tasks(twins) + "; give them one spelling if they are one");
  }
  return records;
}

}  // namespace moelora::train
