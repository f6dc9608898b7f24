// Scorers by name, and by a file that lists a metric for each task.

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_reader.h"
#include "moelora/log/log.h"

namespace moelora::eval {
namespace {

constexpr std::array<std::pair<const char*, Scorer::Kind>, 3> kScorers{
    {{"moelora", Scorer::Kind::moelora}, {"promptcblue", Scorer::Kind::promptcblue}, {"paper", Scorer::Kind::paper}}};
constexpr std::array<std::pair<const char*, Metric>, 5> kListedMetrics{{{"accuracy", Metric::accuracy},
                                                                        {"choice-accuracy", Metric::choice_accuracy},
                                                                        {"macro-f1", Metric::macro_f1},
                                                                        {"exact-match", Metric::exact_match},
                                                                        {"rouge-l", Metric::rouge_l}}};

template <typename Named>
std::vector<std::string> names_of(const Named& named) {
  std::vector<std::string> names;
  for (const auto& [name, unused] : named) names.emplace_back(name);
  return names;
}

std::optional<Metric> read_metric(io::JsonReader& reader, const std::string& key) {
  std::string name;
  if (!reader.read(key, name)) return std::nullopt;
  for (const auto& [known, metric] : kListedMetrics) {
    if (name == known) return metric;
  }
  reader.problem(key, "unknown metric `" + name + "`" + io::suggestion(name, names_of(kListedMetrics)));
  return std::nullopt;
}

}  // namespace

Scorer scorer_from_name(std::string_view name) {
  for (const auto& [known, kind] : kScorers) {
    if (name == known) return {kind, known};
  }
  throw Error(
      detail::concat("expected a scorer among moelora, promptcblue, paper, or a JSON file with a metric for "
                     "each task, found `",
                     name, "`", io::suggestion(name, names_of(kScorers))));
}

Scorer scorer_from_json(const nlohmann::ordered_json& json, std::string name) {
  Scorer scorer{Scorer::Kind::by_task, std::move(name)};
  io::JsonReader reader(json);
  scorer.others = read_metric(reader, "default");
  nlohmann::ordered_json listed = nlohmann::ordered_json::object();
  reader.read("tasks", listed);
  io::JsonReader tasks = reader.child("tasks");
  if (listed.is_object()) {
    for (const auto& [task, unused] : listed.items()) {
      if (const auto metric = read_metric(tasks, task)) scorer.tasks.emplace(task, *metric);
    }
  }
  if (!reader.has("default") && listed.empty()) {
    reader.problem("expected a metric under `default` or `tasks`, found neither");
  }
  try {
    reader.finish();
  } catch (const Error& error) {
    throw Error("the scorer " + scorer.name + " has these problems:\n" + error.what());
  }
  return scorer;
}

Scorer scorer_from(const std::string& name_or_file) {
  const bool is_name =
      std::any_of(kScorers.begin(), kScorers.end(), [&](const auto& known) { return name_or_file == known.first; });
  const bool is_file = name_or_file.ends_with(".json") || name_or_file.find('/') != std::string::npos;
  if (is_name || !is_file) return scorer_from_name(name_or_file);
  return scorer_from_json(io::read_json_file(name_or_file), name_or_file);
}

Metric listed_metric(const Scorer& scorer, const std::string& task) {
  if (const auto listed = scorer.tasks.find(task); listed != scorer.tasks.end()) return listed->second;
  MOELORA_CHECK(scorer.others, "the scorer ", scorer.name, " has no metric for the task `", task, "`",
                io::suggestion(task, names_of(scorer.tasks)), ": list it under `tasks`, or add `default`");
  return *scorer.others;
}

void check_scorer(const Scorer& scorer, const std::vector<data::Record>& records) {
  if (scorer.kind != Scorer::Kind::by_task) return;
  std::set<std::string> occurring;
  for (const data::Record& record : records) {
    if (occurring.insert(record.task).second) listed_metric(scorer, record.task);
  }
  for (const auto& [task, unused] : scorer.tasks) {
    if (occurring.count(task) > 0) continue;
    log::warning(scorer.name + " lists the task `" + task + "`, which no record has: its metric is not used");
  }
}

}  // namespace moelora::eval
