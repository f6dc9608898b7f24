#pragma once
// A family of models: all that the library must know of a kind of graph to read, make, save and name its models. One
// folder src/model/<family> implements both interfaces; model/registry.h lists the families.

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moelora/io/gguf_layout.h"
#include "moelora/model/causal_lm.h"
#include "moelora/model/tokenizer.h"
#include "moelora/model/weights.h"
#include "moelora/nn/rotary.h"

namespace moelora::model {

/// Ids with a meaning of their own, as a config.json gives them; -1: not given.
struct SpecialTokens {
  std::int64_t bos = -1;  ///< Opens the answer, or the text where the family has no such token.
  std::int64_t eos = -1;
  std::int64_t pad = -1;
};

/// A model's configuration, read and checked: everything about it but its weights.
class ModelConfig {
 public:
  virtual ~ModelConfig() = default;

  virtual ExpectedTensors expected_tensors() const = 0;
  /// The graph. `source` is asked for the expected tensors; which ones are one tensor is the source's affair.
  virtual std::shared_ptr<CausalLM> make(const TensorSource& source) const = 0;
  virtual std::int64_t num_layers() const = 0;
  virtual SpecialTokens special_tokens() const = 0;
  /// The type in which the configuration says that the weights are stored. Error: it names none that is known.
  virtual at::ScalarType declared_dtype() const = 0;
  /// config.json for weights stored as `stored`, as this family's distribution writes it.
  virtual nlohmann::ordered_json to_json(at::ScalarType stored) const = 0;
  /// What a person wants to see of it, settings included that only this family has: ("layers", "28"), …
  virtual std::vector<std::pair<std::string, std::string>> summary() const = 0;
  /// How llama.cpp's GGUF file of this model names and orders its linears; nothing: llama.cpp has no architecture that
  /// computes what this configuration says.
  virtual std::optional<io::GgufLayout> gguf_layout() const { return std::nullopt; }
};

/// How texts speak of a family: "NAME, EDITION", "NAME's (EDITION: CONFIG_KEYS)".
struct FamilyTitle {
  std::string name;         ///< As its publisher calls it.
  std::string edition;      ///< What tells it from others of that name: "the first generation"; may be empty.
  std::string config_keys;  ///< Keys by which a person knows its config.json.
};

/// A linear by its module path, with sizes.
struct LinearShape {
  std::string name;
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
};

/// One axis of rotary positions, [n] int64, as a graph computes it for `width` columns.
struct RotaryAxis {
  at::Tensor frequencies;   ///< [width/2]
  nn::RotaryTables tables;  ///< [n, width]
};

class Family {
 public:
  virtual ~Family() = default;

  virtual FamilyTitle title() const = 0;
  /// Whether a config.json (an object) claims to be of this family; what is wrong with it, read_config says.
  virtual bool recognises(const nlohmann::ordered_json& config) const = 0;
  /// Error listing every problem, among them each setting that the graph does not follow.
  virtual std::shared_ptr<const ModelConfig> read_config(const nlohmann::ordered_json& config) const = 0;
  /// The family's best-known model; nullptr: none stands out.
  virtual std::shared_ptr<const ModelConfig> default_config() const { return nullptr; }
  /// A configuration with linears of these names and sizes, from which a weightless graph can be made that refuses what
  /// the real one refuses; nullptr if there are others among them.
  virtual std::shared_ptr<const ModelConfig> config_of_linears(const std::vector<LinearShape>&) const {
    return nullptr;
  }

  /// The file that a tokenizer of this family can't be without.
  virtual std::string tokenizer_file() const = 0;
  /// Whether a folder holds it, or `path` is one.
  virtual bool holds_tokenizer(const std::filesystem::path& path) const = 0;
  /// Reads it. `settings`, an object, overrides keys of tokenizer_config.json.
  virtual std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path,
                                                    const nlohmann::ordered_json& settings) const = 0;
  /// Keys that `settings` may have.
  virtual std::vector<std::string> tokenizer_settings() const { return {}; }

  /// What verification compares with recorded tables; nothing: the family has none of its own.
  virtual std::optional<RotaryAxis> rotary_axis(const at::Tensor& /*positions*/, std::int64_t /*width*/,
                                                at::ScalarType /*dtype*/) const {
    return std::nullopt;
  }

  /// Other models that are easily taken for this family's, so that an error can say what a file is instead of listing
  /// what it lacks: the model to which tensors or modules of these names belong, e.g. "BLOOM or Falcon"; empty for this
  /// family's own names and unknown ones.
  virtual std::string other_model_of_names(const std::vector<std::string>&) const { return {}; }
  /// The same by the keys of a config.json.
  virtual std::string other_model_of_config(const nlohmann::ordered_json&) const { return {}; }
};

}  // namespace moelora::model
