#include "moelora/train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_reader.h"
#include "moelora/log/log.h"

namespace moelora::train {
namespace {

constexpr const char* kStateFile = "state.json";
constexpr const char* kStepPrefix = "step-";

/// Settings of which no trained number depends.
const std::set<std::string> kFreeOptions{"log_every", "checkpoint_every", "keep_checkpoints", "threads",
                                         "validate_every"};

void read_identity(io::JsonReader reader, RunIdentity& identity) {
  nlohmann::ordered_json options;
  nlohmann::ordered_json adapter;
  reader.read("options", options);
  reader.read("adapter", adapter);
  identity.options = options.dump();
  identity.adapter = adapter.is_null() ? std::string() : adapter.dump();
  reader.read("data_hash", identity.data_hash);
  reader.read("base_fingerprint", identity.base_fingerprint);
  reader.read("threads", identity.threads);
  reader.read("ranks", identity.ranks);
}

nlohmann::ordered_json identity_to_json(const RunIdentity& identity) {
  nlohmann::ordered_json json;
  json["options"] = nlohmann::ordered_json::parse(identity.options);
  json["adapter"] = nullptr;
  if (!identity.adapter.empty()) {
    json["adapter"] = nlohmann::ordered_json::parse(identity.adapter);
  }
  json["data_hash"] = identity.data_hash;
  json["base_fingerprint"] = identity.base_fingerprint;
  json["threads"] = identity.threads;
  json["ranks"] = identity.ranks;
  return json;
}

/// "key: the run began with X, found Y" for each key whose values differ.
void list_differences(const std::string& section, const std::string& then, const std::string& now,
                      std::vector<std::string>& problems) {
  const auto before = nlohmann::ordered_json::parse(then.empty() ? "{}" : then);
  const auto after = nlohmann::ordered_json::parse(now.empty() ? "{}" : now);
  std::set<std::string> keys;
  for (const auto* json : {&before, &after}) {
    for (auto entry = json->begin(); entry != json->end(); ++entry) {
      keys.insert(entry.key());
    }
  }
  for (const std::string& key : keys) {
    const std::string old_value = before.contains(key) ? before[key].dump() : "nothing";
    const std::string new_value = after.contains(key) ? after[key].dump() : "nothing";
    if (old_value == new_value || (section == "training" && kFreeOptions.contains(key))) {
      continue;
    }
    const std::string text = section + "." + key + ": the run began with " + old_value + ", found " + new_value;
    if (section == "training" && key == "steps") {
      log::warning(text + "; the learning rate follows the new number from here on");
    } else {
      problems.push_back(text);
    }
  }
}

}  // namespace

RunState RunState::from_json(const nlohmann::ordered_json& json) {
  RunState state;
  std::int64_t version = 0;
  io::JsonReader reader(json);
  if (!reader.read("format_version", version) || version != 1) {
    reader.problem(detail::concat("expected format_version 1, found ", version));
  }
  reader.read("step", state.step);
  reader.read("sampler_seed", state.sampler_seed);
  double best_loss = 0.0;
  if (reader.has("best_loss") && reader.read("best_loss", best_loss)) {
    state.best_loss = best_loss;
  }
  reader.read("best_step", state.best_step);
  reader.read("loss_scale", state.loss_scale);
  reader.read("good_steps", state.good_steps);
  reader.read("tokens", state.tokens);
  reader.read("seconds", state.seconds);
  reader.read("log_bytes", state.log_bytes);
  nlohmann::ordered_json window = nlohmann::ordered_json::object();
  reader.read("window", window);
  for (auto entry = window.begin(); entry != window.end(); ++entry) {
    state.window[entry.key()] = {entry.value().at(0).get<double>(), entry.value().at(1).get<std::int64_t>()};
  }
  read_identity(reader.child("run"), state.identity);
  reader.finish();
  return state;
}

nlohmann::ordered_json RunState::to_json() const {
  nlohmann::ordered_json json{{"format_version", 1}, {"step", step}, {"sampler_seed", sampler_seed}};
  if (best_loss) {
    json["best_loss"] = *best_loss;
  }
  json["best_step"] = best_step;
  json["loss_scale"] = loss_scale;
  json["good_steps"] = good_steps;
  json["tokens"] = tokens;
  json["seconds"] = seconds;
  json["log_bytes"] = log_bytes;
  json["window"] = nlohmann::ordered_json::object();
  for (const auto& [task, sum_and_labels] : window) {
    json["window"][task] = {sum_and_labels.first, sum_and_labels.second};
  }
  json["run"] = identity_to_json(identity);
  return json;
}

void check_same_run(const RunIdentity& then, const RunIdentity& now) {
  std::vector<std::string> problems;
  list_differences("training", then.options, now.options, problems);
  list_differences("adapter", then.adapter, now.adapter, problems);
  if (then.data_hash != now.data_hash) {
    problems.push_back("the training or validation data are not the ones that the run began with");
  }
  if (!then.base_fingerprint.empty() && !now.base_fingerprint.empty() &&
      then.base_fingerprint != now.base_fingerprint) {
    problems.push_back("the base model is not the one that the run began with");
  }
  std::string text;
  for (const std::string& problem : problems) {
    text += "\n  " + problem;
  }
  MOELORA_CHECK(problems.empty(), "the run in this output folder cannot be resumed with these settings:", text,
                "\nrestore them, or choose another output folder");
  const auto warn = [](const char* what, std::int64_t before, std::int64_t after) {
    if (before != after) {
      log::warning(detail::concat("the run began with ", before, " ", what, " and goes on with ", after,
                                  ": results may differ in the last bits from an undisturbed run's"));
    }
  };
  warn("threads", then.threads, now.threads);
  warn("processes", then.ranks, now.ranks);
}

CheckpointFolder::CheckpointFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}

std::vector<std::int64_t> CheckpointFolder::steps() const {
  std::vector<std::int64_t> steps;
  std::error_code failure;
  for (std::filesystem::directory_iterator entry(folder_, failure), end; !failure && entry != end;
       entry.increment(failure)) {
    const std::string name = entry->path().filename().string();
    const std::size_t prefix = std::string(kStepPrefix).size();
    std::int64_t step = 0;
    if (!name.starts_with(kStepPrefix)) {
      continue;
    }
    const char* last = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + prefix, last, step);
    if (error == std::errc() && rest == last) {  // a half-written one has a longer name
      steps.push_back(step);
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::filesystem::path CheckpointFolder::path_of(std::int64_t step) const {
  return folder_ / (kStepPrefix + std::to_string(step));
}

void CheckpointFolder::write(const RunState& state,
                             const std::function<void(const std::filesystem::path&)>& fill) const {
  io::AtomicFolder target(path_of(state.step));
  fill(target.path());
  io::write_json_file(target.path() / kStateFile, state.to_json());
  target.commit();
}

std::optional<RunState> CheckpointFolder::newest() const {
  const std::vector<std::int64_t> present = steps();
  for (auto step = present.rbegin(); step != present.rend(); ++step) {
    try {
      return RunState::from_json(io::read_json_file(path_of(*step) / kStateFile));
    } catch (const std::exception& error) {
      log::warning(path_of(*step).string() + " cannot be used, an older checkpoint is taken: " + error.what());
    }
  }
  return std::nullopt;
}

void CheckpointFolder::prune(std::int64_t keep, std::int64_t best_step) const {
  std::vector<std::int64_t> present = steps();
  const auto surplus = static_cast<std::int64_t>(present.size()) - keep;
  for (std::int64_t i = 0; i < surplus; ++i) {
    const std::int64_t step = present[static_cast<std::size_t>(i)];
    if (step != best_step) {
      std::error_code ignored;  // what cannot be removed now is removed after the next checkpoint
      // state.json goes first: a removal that is interrupted must not leave what looks like a checkpoint.
      std::filesystem::remove(path_of(step) / kStateFile, ignored);
      std::filesystem::remove_all(path_of(step), ignored);
    }
  }
}

}  // namespace moelora::train
