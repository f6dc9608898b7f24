#include "moelora/train/run_identity.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "moelora/io/error.h"
#include "moelora/log/log.h"

namespace moelora::train {
namespace {

enum class Weight {
  none,      // no trained number depends on it
  rounding,  // sums are only added up in another order
  learned,   // the course of the run changes from here on
  fixed,     // another run
};

Weight weight_of(const std::string& section, const std::string& key) {
  static const std::map<std::string, Weight> weights{
      {"log_every", Weight::none},        {"checkpoint_every", Weight::none},
      {"keep_checkpoints", Weight::none}, {"threads", Weight::none},
      {"validate_every", Weight::none},   {"memory_budget_gb", Weight::none},
      {"learning_rate", Weight::learned}, {"micro_batch_tokens", Weight::rounding},
      {"schedule", Weight::learned},      {"warmup_steps", Weight::learned},
      {"steps", Weight::learned},         {"max_grad_norm", Weight::learned},
      {"weight_decay", Weight::learned},  {"beta1", Weight::learned},
      {"beta2", Weight::learned},         {"epsilon", Weight::learned}};
  const auto found = weights.find(key);
  return section == "training" && found != weights.end() ? found->second : Weight::fixed;
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
    switch (weight_of(section, key)) {
      case Weight::none:
        break;
      case Weight::rounding:
        log::warning(began_with(change) + ": " + kLastBits);
        break;
      case Weight::learned:
        comparison.changes.push_back(change);
        break;
      case Weight::fixed:
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
