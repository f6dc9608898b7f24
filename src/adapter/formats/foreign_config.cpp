#include "adapter/formats/foreign_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "adapter/core/target_pattern.h"
#include "adapter/formats/adapter_loading.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"

namespace moelora {
namespace {

using nlohmann::ordered_json;

constexpr std::int64_t kLargestCount = 1'000'000;  // of ranks, experts, tasks

std::string shown(const ordered_json& json) {
  const std::string text = json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  return text.size() <= 200 ? text : std::string("a long ") + json.type_name();
}

/// Reads typed values and collects what is wrong.
class SettingsReader {
 public:
  explicit SettingsReader(const ordered_json& json) : json_(json) {}

  std::int64_t integer(const std::string& key) {
    const auto& value = get(key);
    if (!value.is_number_integer() || value < 1 || value > kLargestCount) {
      problem(key, "expected a positive integer (up to a million)", value);
      return 1;
    }
    return value.get<std::int64_t>();
  }
  double number(const std::string& key) {
    const auto& value = get(key);
    if (!value.is_number()) {
      problem(key, "expected a number", value);
      return 1.0;
    }
    return value.get<double>();
  }
  bool boolean(const std::string& key) {
    const auto& value = get(key);
    if (!value.is_boolean() && !value.is_null()) {
      problem(key, "expected true or false", value);
    }
    return value.is_boolean() && value.get<bool>();
  }
  /// Absent and null are an empty list.
  std::vector<std::string> strings(const std::string& key) {
    const auto& value = get(key);
    const bool fits = value.is_array() && std::all_of(value.begin(), value.end(),
                                                      [](const ordered_json& entry) { return entry.is_string(); });
    if (!fits && !value.is_null()) {
      problem(key, "expected a list of strings", value);
    }
    return fits ? value.get<std::vector<std::string>>() : std::vector<std::string>();
  }
  /// An object of numbers by pattern; absent and null are none.
  ForeignPattern pattern(const std::string& key, bool whole) {
    const auto& value = get(key);
    ForeignPattern result;
    if (value.is_null()) {
      return result;
    }
    if (!value.is_object()) {
      problem(key, "expected an object of numbers by pattern", value);
      return result;
    }
    for (const auto& [text, number] : value.items()) {
      const bool fits = whole ? number.is_number_integer() && number > 0 && number <= kLargestCount
                              : number.is_number() && std::isfinite(number.get<double>());
      if (!fits) {
        problem(key + "." + text, whole ? "expected a positive integer" : "expected a number", number);
        continue;
      }
      try {
        result.add(text, number.get<double>());
      } catch (const Error&) {
        problem(key + "." + text.substr(0, 80),
                "expected a name or a regular expression without Python's own extensions", number);
      }
    }
    return result;
  }
  const ordered_json& get(const std::string& key) {
    static const ordered_json absent;
    seen_.insert(key);
    const auto found = json_.find(key);
    return found == json_.end() ? absent : *found;
  }
  void problem(const std::string& key, const std::string& expected, const ordered_json& found) {
    problems_.push_back(key + ": " + expected + ", found " +
                        (found.is_null() && !json_.contains(key) ? "nothing" : shown(found)));
  }
  void ignore(std::initializer_list<const char*> keys) { seen_.insert(keys.begin(), keys.end()); }
  /// Every key that nobody read must be switched off: it may change what the adapter computes.
  void finish(const std::string& path) {
    for (const auto& [key, value] : json_.items()) {
      const bool off = value.is_null() || value == false || (value.is_structured() && value.empty()) || value == "";
      if (!seen_.contains(key) && !off) {
        problem(key, "expected null, false or empty, because this library does not follow that setting", value);
      }
    }
    MOELORA_CHECK(problems_.empty(), path, " can't be read:", listed(problems_));
  }

 private:
  const ordered_json& json_;
  std::set<std::string> seen_;
  std::vector<std::string> problems_;
};

void read_targets(SettingsReader& reader, ForeignConfig& result) {
  const auto& targets = reader.get("target_modules");
  const bool partial = !reader.get("layers_to_transform").is_null() || !reader.get("exclude_modules").is_null();
  if (targets.is_array()) {
    for (std::string& target : reader.strings("target_modules")) {  // a set in Python
      if (std::find(result.targets.begin(), result.targets.end(), target) == result.targets.end()) {
        result.targets.push_back(std::move(target));
      }
    }
    result.targets_are_names = true;
  } else if (targets.is_string()) {
    // Python's re.fullmatch; expressions that ECMAScript lacks fall back to the names in the tensors' file.
    std::string problem;
    if (compile_expression(targets.get<std::string>(), problem)) {
      result.targets = {targets.get<std::string>()};
    }
    if (targets == "all-linear") {
      result.targets.clear();
    }
  } else {
    reader.problem("target_modules", "expected a list of names or a regular expression", targets);
  }
  if (partial) {
    result.targets.clear();
  }
}

void check_common(SettingsReader& reader) {
  const auto& bias = reader.get("bias");
  if (!bias.is_null() && bias != "none") {
    reader.problem("bias", "expected \"none\" (trained biases have no place in this library's adapters)", bias);
  }
  // Initialisations that also change the base's weights: the adapter alone is not the trained difference.
  static const std::set<std::string> harmless{"gaussian", "eva", "orthogonal"};
  const auto& start = reader.get("init_lora_weights");
  if (start.is_string() && !harmless.contains(start.get<std::string>())) {
    reader.problem("init_lora_weights",
                   "expected true, false, \"gaussian\", \"eva\" or \"orthogonal\" (others change the "
                   "base's weights; convert the adapter with PEFT first)",
                   start);
  }
  reader.ignore({"peft_type", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version",
                 "auto_mapping", "megatron_core", "qalora_group_size", "loftq_config", "corda_config", "eva_config",
                 "runtime_config", "layers_pattern", "merge_weights"});
}

}  // namespace

void ForeignPattern::add(const std::string& key, double value) {
  std::string problem;
  auto expression = compile_expression("(.*\\.)?(" + key + ")", problem);
  MOELORA_CHECK(expression, problem);
  entries_.push_back({key, std::move(*expression), value});
}

double ForeignPattern::value_for(const std::string& linear, double otherwise) const {
  for (const Entry& entry : entries_) {
    if (std::regex_match(linear, entry.expression)) {
      return entry.value;
    }
  }
  return otherwise;
}

std::vector<std::string> ForeignPattern::keys_without_match(const std::vector<std::string>& linears) const {
  std::vector<std::string> keys;
  for (const Entry& entry : entries_) {
    if (std::none_of(linears.begin(), linears.end(),
                     [&](const std::string& linear) { return std::regex_match(linear, entry.expression); })) {
      keys.push_back(entry.key);
    }
  }
  return keys;
}

std::int64_t ForeignConfig::rank_of(const std::string& linear) const {
  return static_cast<std::int64_t>(rank_pattern.value_for(linear, static_cast<double>(config.rank)));
}

bool ForeignConfig::has_own_scaling(const std::string& linear) const {
  return rank_of(linear) != config.rank || alpha_pattern.value_for(linear, lora_alpha) != lora_alpha;
}

double ForeignConfig::scaling_of(const std::string& linear) const {
  if (!has_own_scaling(linear)) {
    return config.scaling();
  }
  const auto rank = static_cast<double>(rank_of(linear));
  return alpha_pattern.value_for(linear, lora_alpha) / (rank_stabilised ? std::sqrt(rank) : rank);
}

ForeignConfig read_foreign_config(const std::filesystem::path& folder) {
  const auto path = folder / "adapter_config.json";
  const ForeignFormat format = detect_foreign(folder);
  MOELORA_CHECK(std::filesystem::exists(path), "expected an adapter with adapter_config.json in ", folder.string(),
                ", found none; name the folder that PEFT or MOELoRA-peft wrote");
  const ordered_json json = io::read_json_file(path);
  MOELORA_CHECK(format != ForeignFormat::none, path.string(),
                ": expected \"peft_type\" LORA, MMOELORA or MMOELORAS, found ",
                json.is_object() && json.contains("peft_type") ? shown(json["peft_type"]) : "none",
                "; other kinds of adapters can't be read");
  SettingsReader reader(json);
  ForeignConfig result;
  MoeLoraConfig& config = result.config;
  config.rank = reader.integer("r");
  config.alpha = reader.number("lora_alpha");
  config.dropout = json.contains("lora_dropout") ? reader.number("lora_dropout") : 0.0;
  result.lora_alpha = config.alpha;
  result.rank_stabilised = reader.boolean("use_rslora");
  if (result.rank_stabilised) {
    config.alpha *= std::sqrt(static_cast<double>(config.rank));  // its scale is alpha / sqrt(r)
  }
  if (format == ForeignFormat::moelora_peft) {
    config.num_experts = reader.integer("expert_num");
    config.gate.task_embedding_dim = reader.integer("task_embedding_dim");
    config.gate.reserved_rows = 1;  // task ids start at 1; row 0 of the embedding is no task
    result.tasks = reader.integer("task_num");
    result.task_names = reader.strings("task_names");
    result.gate_in_every_linear = json["peft_type"] == "MMOELORA";
  } else {
    config.num_experts = 1;
    config.routing = Routing::uniform;
    result.rank_pattern = reader.pattern("rank_pattern", /*whole=*/true);
    result.alpha_pattern = reader.pattern("alpha_pattern", /*whole=*/false);
  }
  read_targets(reader, result);
  check_common(reader);
  reader.finish(path.string());
  return result;
}

ordered_json shared_foreign_settings(const AdapterImpl& adapter, const MoeLoraConfig& config) {
  // The adapter's own targets if PEFT reads them as this library does, that is, if none is a regular expression.
  std::vector<std::string> targets = config.targets;
  const auto is_suffix = [](const std::string& target, const std::string& name) {
    return name == target || name.ends_with("." + target);
  };
  const auto& linears = adapter.linears();
  const bool plain = std::all_of(linears.begin(), linears.end(),
                                 [&](const auto& linear) {
                                   return std::any_of(targets.begin(), targets.end(), [&](const auto& target) {
                                     return is_suffix(target, linear.name);
                                   });
                                 }) &&
                     std::all_of(targets.begin(), targets.end(), [&](const auto& target) {
                       return std::any_of(linears.begin(), linears.end(),
                                          [&](const auto& linear) { return is_suffix(target, linear.name); });
                     });
  if (!plain) {
    targets.clear();
    for (const auto& linear : linears) {
      targets.push_back(linear.name);
    }
  }
  const bool whole = config.alpha == std::floor(config.alpha) && config.alpha < 1e15;
  return {{"base_model_name_or_path", ""},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"inference_mode", true},
          {"init_lora_weights", true},
          {"lora_alpha", whole ? ordered_json(static_cast<std::int64_t>(config.alpha)) : ordered_json(config.alpha)},
          {"lora_dropout", config.dropout},
          {"modules_to_save", nullptr},
          {"r", config.rank},
          {"target_modules", targets}};
}

}  // namespace moelora
