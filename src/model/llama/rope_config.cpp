#include "model/llama/rope_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace moelora::model {
namespace {

using nlohmann::ordered_json;
using Type = LlamaRope::Type;

constexpr std::array<std::pair<const char*, Type>, 5> kTypes{{{"default", Type::plain},
                                                              {"linear", Type::linear},
                                                              {"dynamic", Type::dynamic},
                                                              {"llama3", Type::llama3},
                                                              {"yarn", Type::yarn}}};

std::string type_names() {
  std::string text;
  for (const auto& [name, type] : kTypes) {
    text += (text.empty() ? "" : ", ") + std::string(name);
  }
  return text;
}

void check_positive(const char* key, double value, io::JsonReader& reader) {
  if (!std::isfinite(value) || value <= 0.0) {
    reader.problem(key, "must be a finite number above 0");
  }
}

/// The keys of one type, in the object itself.
void read_scaling(io::JsonReader& rope, std::int64_t original_beside, LlamaConfig& config) {
  LlamaRope& to = config.rope;
  const auto require = [&](const char* key, double& value) {
    if (rope.has(key)) {
      rope.read(key, value);
    } else {
      rope.problem(key, "is missing");
    }
    check_positive(key, value, rope);
  };
  std::int64_t original = config.max_position_embeddings;
  rope.read("original_max_position_embeddings", original);
  const bool by_original = to.type == Type::llama3 || to.type == Type::yarn;
  if (by_original && original_beside != 0) {
    original = original_beside;  // the reference prefers the key beside the object
  }
  if (original < 1) {
    rope.problem("original_max_position_embeddings", "must be at least 1");
  }
  switch (to.type) {
    case Type::plain:
    case Type::linear:
    case Type::dynamic:
      // The reference reads it for none of these; another number would be another model elsewhere.
      if (original != config.max_position_embeddings) {
        rope.problem("original_max_position_embeddings", "differs from max_position_embeddings, expected the same");
      }
      if (to.type != Type::plain) {
        require("factor", to.factor);
      }
      break;
    case Type::llama3:
      require("factor", to.factor);
      require("low_freq_factor", to.low_freq_factor);
      require("high_freq_factor", to.high_freq_factor);
      if (!(to.high_freq_factor > to.low_freq_factor)) {
        rope.problem("high_freq_factor", "must be above low_freq_factor");
      }
      to.original_max_position_embeddings = original;
      break;
    case Type::yarn:
      to.factor = static_cast<double>(config.max_position_embeddings) /
                  static_cast<double>(std::max<std::int64_t>(original, 1));
      rope.read("factor", to.factor);
      check_positive("factor", to.factor, rope);
      if (double attention = 0.0; rope.read("attention_factor", attention)) {
        check_positive("attention_factor", attention, rope);
        to.attention_factor = attention;
      }
      rope.read("beta_fast", to.beta_fast);
      rope.read("beta_slow", to.beta_slow);
      to.beta_fast = to.beta_fast == 0.0 ? 32.0 : to.beta_fast;  // as the reference takes a 0
      to.beta_slow = to.beta_slow == 0.0 ? 1.0 : to.beta_slow;
      check_positive("beta_fast", to.beta_fast, rope);
      check_positive("beta_slow", to.beta_slow, rope);
      rope.read("mscale", to.mscale);
      rope.read("mscale_all_dim", to.mscale_all_dim);
      rope.read("truncate", to.truncate);
      to.original_max_position_embeddings = original;
      if (bool ignored = false; rope.has("finetuned")) {
        rope.read("finetuned", ignored);  // whether its authors trained it so: changes nothing
      }
      break;
  }
}

}  // namespace

void read_llama_rope(const ordered_json& json, bool partial_is_followed, LlamaConfig& config, io::JsonReader& reader,
                     std::vector<std::string>& read) {
  read.insert(read.end(), {"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor",
                           "original_max_position_embeddings"});
  LlamaRope& to = config.rope;
  // The object's own values come first, then those beside it.
  double partial = to.partial;
  std::int64_t original_beside = 0;
  reader.read("rope_theta", to.theta);
  reader.read("partial_rotary_factor", partial);
  reader.read("original_max_position_embeddings", original_beside);
  const auto scaling = json.find("rope_scaling");
  const bool newer = scaling == json.end() || scaling->empty();
  const std::string where = newer ? "rope_parameters" : "rope_scaling";
  if (ordered_json other; newer) {
    reader.read("rope_scaling", other);
  } else {
    reader.read("rope_parameters", other);
  }
  io::JsonReader rope = reader.child(where);
  if (rope.has("full_attention") || rope.has("sliding_attention")) {
    ordered_json ignored;
    rope.read("full_attention", ignored);
    rope.read("sliding_attention", ignored);
    rope.problem("each type of layer has positions of its own, which is not implemented; expected one object for all");
    return;
  }
  rope.read("rope_theta", to.theta);
  check_positive("rope_theta", to.theta, rope);
  rope.read("partial_rotary_factor", partial);
  std::string older_name;
  std::string name = "default";
  rope.read("type", older_name);
  name = older_name.empty() ? name : older_name;
  rope.read("rope_type", name);
  const auto* type = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& one) { return name == one.first; });
  if (type == kTypes.end()) {
    rope.problem("rope_type", "is \"" + name + "\", which is not implemented; expected one of " + type_names());
    return;
  }
  to.type = type->second;
  read_scaling(rope, original_beside, config);
  if (!(partial > 0.0 && partial <= 1.0)) {
    reader.problem("partial_rotary_factor", "must be above 0 and at most 1");
  } else if (!partial_is_followed && partial != 1.0) {
    reader.problem("partial_rotary_factor", "is not 1: models of type " + config.model_type + " turn whole heads");
  } else {
    to.partial = partial;
  }
}

void write_llama_rope(const LlamaConfig& config, bool partial_is_followed, ordered_json& json) {
  const LlamaRope& from = config.rope;
  if (partial_is_followed) {
    json["partial_rotary_factor"] = from.partial;
  }
  json["rope_theta"] = from.theta;
  json["rope_scaling"] = nullptr;
  if (from.type == Type::plain) {
    return;
  }
  const auto* type =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& one) { return from.type == one.second; });
  ordered_json scaling{{"rope_type", type->first}, {"factor", from.factor}};
  if (from.type == Type::llama3) {
    scaling["low_freq_factor"] = from.low_freq_factor;
    scaling["high_freq_factor"] = from.high_freq_factor;
  }
  if (from.type == Type::yarn) {
    if (from.attention_factor) {
      scaling["attention_factor"] = *from.attention_factor;
    }
    scaling["beta_fast"] = from.beta_fast;
    scaling["beta_slow"] = from.beta_slow;
    if (from.mscale != 0.0) {
      scaling["mscale"] = from.mscale;
    }
    if (from.mscale_all_dim != 0.0) {
      scaling["mscale_all_dim"] = from.mscale_all_dim;
    }
    scaling["truncate"] = from.truncate;
  }
  if (from.type == Type::llama3 || from.type == Type::yarn) {
    scaling["original_max_position_embeddings"] = from.original_max_position_embeddings;
  }
  json["rope_scaling"] = std::move(scaling);
}

}  // namespace moelora::model
