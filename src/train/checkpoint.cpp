#include "moelora/train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/adapter/adapter_file.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/safetensors.h"
#include "moelora/io/sha256.h"
#include "moelora/log/log.h"
#include "train/checksums.h"

namespace moelora::train {
namespace {

constexpr const char* kStateFile = "state.json";
constexpr const char* kStepPrefix = "step-";

// 2: checksums beside it, dtype, device, changes. Version 1 is read, without them.
constexpr std::int64_t kStateVersion = 2;

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
  reader.read("dtype", identity.dtype);
  reader.read("device", identity.device);
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
  json["dtype"] = identity.dtype;
  json["device"] = identity.device;
  return json;
}

void check_version(std::int64_t version) {
  MOELORA_CHECK(version == 1 || version == kStateVersion, "expected format_version 1 or ", kStateVersion, ", found ",
                version, "; resume with the version of the program that wrote it");
}

/// Looks at the version alone, before checksums: a later version may have others. A damaged file is left to them.
void check_version_in(const std::filesystem::path& state_file) {
  std::ifstream stream(state_file);
  const auto json = nlohmann::ordered_json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("format_version") && json["format_version"].is_number_integer()) {
    check_version(json["format_version"].get<std::int64_t>());
  }
}

void read_window(io::JsonReader& reader, RunState& state) {
  nlohmann::ordered_json window = nlohmann::ordered_json::object();
  reader.read("window", window);
  for (auto entry = window.begin(); entry != window.end(); ++entry) {
    const auto& value = entry.value();
    if (value.is_array() && value.size() == 2 && value[0].is_number() && value[1].is_number_integer()) {
      state.window[entry.key()] = {value[0].get<double>(), value[1].get<std::int64_t>()};
    } else {
      reader.problem("window", "expected a sum and a number of labels for " + entry.key() + ", found " + value.dump());
    }
  }
}

/// What can be said of the files of a checkpoint that was written without checksums.
void check_without_checksums(const std::filesystem::path& folder) {
  const std::filesystem::path adapter = folder / "adapter";
  if (is_adapter_folder(adapter)) {
    read_adapter_info(adapter);  // checks adapter.json itself
    const auto description = io::read_json_file(adapter / "adapter.json");
    const std::string sum = io::sha256_of_file(adapter / "adapter.safetensors");
    MOELORA_CHECK(description["tensors_sha256"] == sum, "adapter/adapter.safetensors is damaged: expected SHA-256 ",
                  description["tensors_sha256"].dump(), ", found ", sum);
  }
  MOELORA_CHECK(std::filesystem::exists(folder / "optimizer.safetensors"), "optimizer.safetensors is missing");
  for (const char* name : {"optimizer.safetensors", "parameters.safetensors"}) {
    if (std::filesystem::exists(folder / name)) {
      io::SafetensorsFile file(folder / name);  // cut-off files and damaged headers are found
    }
  }
  log::info(folder.string() +
            " was written by an earlier version, without checksums: its numbers are taken as they are");
}

}  // namespace

RunState RunState::from_json(const nlohmann::ordered_json& json) {
  RunState state;
  std::int64_t version = 0;
  io::JsonReader reader(json);
  if (reader.read("format_version", version)) {
    check_version(version);  // by itself: the keys of a version that is not known say nothing
  } else {
    reader.problem("format_version", "is missing");
  }
  reader.read("step", state.step);
  reader.read("sampler_seed", state.sampler_seed);
  nlohmann::ordered_json best_loss;
  const bool has_best = reader.read("best_loss", best_loss);
  reader.read("best_step", state.best_step);
  if (best_loss.is_number()) {
    state.best_loss = best_loss.get<double>();
  } else if (has_best && best_loss.is_null()) {
    // Earlier versions took a loss that was not finite for the best, and wrote null.
    state.best_step = 0;
    state.validations_not_finite = 1;
  } else if (has_best) {
    reader.problem("best_loss", "expected a number, found " + best_loss.dump());
  }
  reader.read("validations_not_finite", state.validations_not_finite);
  reader.read("loss_scale", state.loss_scale);
  reader.read("good_steps", state.good_steps);
  reader.read("skipped_steps", state.skipped_steps);
  reader.read("skipped_in_a_row", state.skipped_in_a_row);
  reader.read("tokens", state.tokens);
  reader.read("seconds", state.seconds);
  reader.read("log_bytes", state.log_bytes);
  read_window(reader, state);
  nlohmann::ordered_json changes = nlohmann::ordered_json::array();
  reader.read("changes", changes);
  read_identity(reader.child("run"), state.identity);
  reader.finish();
  state.changes = changes_from_json(changes);
  return state;
}

nlohmann::ordered_json RunState::to_json() const {
  nlohmann::ordered_json json{{"format_version", kStateVersion}, {"step", step}, {"sampler_seed", sampler_seed}};
  if (best_loss) {
    json["best_loss"] = *best_loss;
  }
  json["best_step"] = best_step;
  json["validations_not_finite"] = validations_not_finite;
  json["loss_scale"] = loss_scale;
  json["good_steps"] = good_steps;
  if (skipped_steps > 0) {
    json["skipped_steps"] = skipped_steps;
    json["skipped_in_a_row"] = skipped_in_a_row;
  }
  json["tokens"] = tokens;
  json["seconds"] = seconds;
  json["log_bytes"] = log_bytes;
  json["window"] = nlohmann::ordered_json::object();
  for (const auto& [task, sum_and_labels] : window) {
    json["window"][task] = {sum_and_labels.first, sum_and_labels.second};
  }
  json["run"] = identity_to_json(identity);
  json["changes"] = changes_to_json(changes);
  return json;
}

CheckpointFolder::CheckpointFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}

std::vector<std::int64_t> CheckpointFolder::steps() const {
  std::vector<std::int64_t> steps;
  std::error_code failure;
  if (!std::filesystem::exists(folder_, failure) && !failure) {
    return steps;
  }
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
  MOELORA_CHECK(!failure, "cannot look for checkpoints in ", folder_.string(), ": ", failure.message());
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
  write_checksums(target.path());
  target.commit();
}

RunState CheckpointFolder::read(std::int64_t step) const {
  const std::filesystem::path folder = path_of(step);
  MOELORA_CHECK(std::filesystem::is_directory(folder), "there is no such checkpoint");
  check_version_in(folder / kStateFile);
  const bool has_checksums = std::filesystem::exists(folder / kChecksumsFile);
  if (has_checksums) {
    verify_checksums(folder, kStateFile);
  }
  const nlohmann::ordered_json json = io::read_json_file(folder / kStateFile);
  RunState state = RunState::from_json(json);
  MOELORA_CHECK(state.step == step, kStateFile, " is of step ", state.step, ": it belongs to another checkpoint");
  if (!has_checksums) {
    MOELORA_CHECK(json["format_version"] == 1, kChecksumsFile, " is missing");
    check_without_checksums(folder);
  }
  return state;
}

std::optional<RunState> CheckpointFolder::newest() const {
  const std::vector<std::int64_t> present = steps();
  std::vector<std::string> problems;
  std::optional<std::int64_t> without_best;  // whole itself
  for (auto step = present.rbegin(); step != present.rend(); ++step) {
    std::string problem;
    try {
      RunState state = read(*step);
      if (state.best_loss && state.best_step != *step) {
        without_best = without_best ? without_best : *step;
        problem = "of its best one, step-" + std::to_string(state.best_step) + ", ";
        read(state.best_step);
      }
      for (const std::string& text : problems) {
        log::warning(folder_.string() + ": " + text);
      }
      if (!problems.empty()) {
        log::warning(detail::concat("going back to the newest checkpoint that is whole, ", path_of(*step).string()));
      }
      return state;
    } catch (const std::exception& error) {
      problems.push_back(kStepPrefix + std::to_string(*step) + " cannot be used: " + problem + error.what());
    }
  }
  std::string text;
  for (const std::string& problem : problems) {
    text += "\n  " + problem;
  }
  MOELORA_CHECK(problems.empty(), "none of the checkpoints in ", folder_.string(),
                " can be used; nothing was changed:", text, "\nrestore them from a copy, ",
                without_best
                    ? detail::concat("go on without the best one (--resume-from ", kStepPrefix, *without_best, "), ")
                    : std::string(),
                "or begin again in another output folder");
  return std::nullopt;
}

void CheckpointFolder::prune(std::int64_t keep, std::int64_t best_step) const {
  const std::vector<std::int64_t> present = steps();
  const auto excess = static_cast<std::int64_t>(present.size()) - keep;
  if (excess <= 0) {
    return;
  }
  // The best ones of the newer kept ones are themselves among those kept, or are this one's.
  std::int64_t best_of_oldest = best_step;
  try {
    const std::filesystem::path state = path_of(present[static_cast<std::size_t>(excess)]) / kStateFile;
    best_of_oldest = RunState::from_json(io::read_json_file(state)).best_step;
  } catch (const std::exception&) {
    // Whoever would resume from it is told; what the others need is kept.
  }
  for (std::int64_t i = 0; i < excess; ++i) {
    const std::int64_t step = present[static_cast<std::size_t>(i)];
    if (step != best_step && step != best_of_oldest) {
      std::error_code ignored;  // what cannot be removed now is removed after the next checkpoint
      // state.json goes first: a removal that is interrupted must not leave what looks like a checkpoint.
      std::filesystem::remove(path_of(step) / kStateFile, ignored);
      std::filesystem::remove_all(path_of(step), ignored);
    }
  }
}

std::string listed_steps(const std::vector<std::int64_t>& steps) {
  std::string text;
  for (const std::int64_t step : steps) {
    text += (text.empty() ? "" : ", ") + (kStepPrefix + std::to_string(step));
  }
  return text.empty() ? "none" : text;
}

}  // namespace moelora::train
