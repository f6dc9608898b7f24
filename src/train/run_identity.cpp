#include "moelora/train/run_identity.h"

#include <nlohmann/json.hpp>
#include <set>

#include "moelora/io/error.h"
#include "moelora/log/log.h"
#include "train/config_fields.h"

namespace moelora::train {
namespace {

io::OnResume weight_of(const std::string& path) {
  const io::Field* field = train_fields().find(path);
  return field == nullptr ? io::OnResume::another_run : field->on_resume;
}

struct Comparison {
  std::int64_t step;
  std::vector<std::string> problems;
  std::vector<RunChange> changes;
};

std::string began_with(const RunChange& change) {
  return change.key + ": the run began with " + change.before + ", found " + change.after;
}

constexpr const char* kLastBits = "results may differ in the last bits from an undisturbed run's";

/// All keys of a section whose values differ.
void compare_sections(const std::string& section, const std::string& then, const std::string& now,
                      Comparison& comparison) {
  const auto before = nlohmann::ordered_json::parse(then.empty() ? "{}" : then);
  const auto after = nlohmann::ordered_json::parse(now.empty() ? "{}" : now);
  std::set<std::string> keys;
  for (const auto* json : {&before, &after}) {
    for (auto entry = json->begin(); entry != json->end(); ++entry) {
      keys.insert(entry.key());
    }
  }
  for (const std::string& key : keys) {
    const RunChange change{comparison.step, section + "." + key,
                           before.contains(key) ? before[key].dump() : std::string("nothing"),
                           after.contains(key) ? after[key].dump() : std::string("nothing")};
    if (change.before == change.after) {
      continue;
    }
    switch (weight_of(change.key)) {
      case io::OnResume::free:
        break;
      case io::OnResume::rounding:
        log::warning(began_with(change) + ": " + kLastBits);
        break;
      case io::OnResume::learned:
        comparison.changes.push_back(change);
        break;
      case io::OnResume::another_run:
        comparison.problems.push_back(began_with(change));
        break;
    }
  }
}

/// `name` is what the key is called where it is allowed.
void compare_if_asked(const std::string& name, const std::string& then, const std::string& now, bool allowed,
                      Comparison& comparison) {
  if (then.empty() || now.empty() || then == now) {
    return;
  }
  const RunChange change{comparison.step, "model." + name, nlohmann::ordered_json(then).dump(),
                         nlohmann::ordered_json(now).dump()};
  if (allowed) {
    comparison.changes.push_back(change);
  } else {
    comparison.problems.push_back(began_with(change) + " (--set model." + name + "=" + then +
                                  " restores it, --allow-change " + name + " changes it)");
  }
}

}  // namespace

nlohmann::ordered_json changes_to_json(const std::vector<RunChange>& changes) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  const auto value = [](const std::string& text) {
    nlohmann::ordered_json json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
    return json.is_discarded() ? nlohmann::ordered_json(nullptr) : json;
  };
  for (const RunChange& change : changes) {
    list.push_back(
        {{"step", change.step}, {"key", change.key}, {"before", value(change.before)}, {"after", value(change.after)}});
  }
  return list;
}

std::vector<RunChange> changes_from_json(const nlohmann::ordered_json& json) {
  std::vector<RunChange> changes;
  MOELORA_CHECK(json.is_array(), "changes: expected a list, found ", json.type_name());
  for (const auto& entry : json) {
    MOELORA_CHECK(entry.is_object() && entry.contains("step") && entry["step"].is_number_integer() &&
                      entry.contains("key") && entry["key"].is_string() && entry.contains("before") &&
                      entry.contains("after"),
                  "changes: expected step, key, before and after in each entry, found ", entry.dump());
    changes.push_back({entry["step"].get<std::int64_t>(), entry["key"].get<std::string>(), entry["before"].dump(),
                       entry["after"].dump()});
  }
  return changes;
}

const std::vector<std::string>& allowable_changes() {
  static const std::vector<std::string> names{"dtype", "device"};
  return names;
}

std::vector<RunChange> check_same_run(const RunIdentity& then, const RunIdentity& now, std::int64_t step,
                                      const std::set<std::string>& allowed) {
  Comparison comparison{step, {}, {}};
  compare_sections("training", then.options, now.options, comparison);
  compare_sections("adapter", then.adapter, now.adapter, comparison);
  compare_if_asked("dtype", then.dtype, now.dtype, allowed.contains("dtype"), comparison);
  compare_if_asked("device", then.device, now.device, allowed.contains("device"), comparison);
  if (then.data_hash != now.data_hash) {
    comparison.problems.push_back("the training or validation data are not the ones that the run began with");
  }
  if (!then.base_fingerprint.empty() && !now.base_fingerprint.empty() &&
      then.base_fingerprint != now.base_fingerprint) {
    comparison.problems.push_back("the base model is not the one that the run began with");
  }
  std::string text;
  for (const std::string& problem : comparison.problems) {
    text += "\n  " + problem;
  }
  MOELORA_CHECK(text.empty(), "the run in this output folder cannot be resumed with these settings:", text,
                "\nrestore them, or choose another output folder");
  for (const RunChange& change : comparison.changes) {
    log::warning(began_with(change) + "; it holds from step " + std::to_string(step + 1) + " on" +
                 (change.key == "training.steps" ? ", and the learning rate follows it" : ""));
  }
  const auto warn = [](const char* what, std::int64_t before, std::int64_t after) {
    if (before != after) {
      log::warning(
          detail::concat("the run began with ", before, " ", what, " and goes on with ", after, ": ", kLastBits));
    }
  };
  warn("threads", then.threads, now.threads);
  warn("processes", then.ranks, now.ranks);
  return comparison.changes;
}

}  // namespace moelora::train
