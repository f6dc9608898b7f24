#pragma once
// Models of any family, by what their folder holds: config.json decides which family reads it.
//
//   auto [family, config] = read_config_of(folder); nothing but config.json
//   LoadedModel loaded = load(folder);              weights and tokenizer
//   loaded.save(other_folder);                      as it came

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moelora/model/family.h"

namespace moelora::model {

/// Adds a family to those of the library (src/model/families.cpp), for the rest of the process. Error: one of this name
/// is there. Thread-safe.
void register_family(std::shared_ptr<const Family> family);

/// All families, in the order in which they are asked.
std::vector<std::shared_ptr<const Family>> families();

/// "NAME, EDITION or NAME …": the families, for texts.
std::string known_families();

struct FamilyConfig {
  std::shared_ptr<const Family> family;
  std::shared_ptr<const ModelConfig> config;
};

/// Error: no family recognises it (the text lists the known ones and what was found), or its family can't follow it.
FamilyConfig read_config(const nlohmann::ordered_json& config);
/// Reads a model folder's config.json. Error also if the folder holds a P-Tuning v2 prefix alone.
FamilyConfig read_config_of(const std::filesystem::path& folder);

/// The family whose tokenizer a folder or file holds, by config.json or else by its files; nullptr: none.
std::shared_ptr<const Family> family_of_tokenizer(const std::filesystem::path& path);
/// The tokenizer alone. `settings` (an object) overrides keys of tokenizer_config.json. Error: there is none.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path, const nlohmann::ordered_json& settings);

/// A GPU if LibTorch sees one, else the CPU.
at::Device automatic_device();

/// How prompts are written, as a choice of a user: the model's own chat template, none (texts are encoded as they are),
/// or the path of a file with a template. As settings of Family::load_tokenizer. Error: the family's tokenizers have no
/// such choice, or the file cannot be read.
inline constexpr const char* kOwnTemplate = "model";
inline constexpr const char* kNoTemplate = "none";
nlohmann::ordered_json template_settings(const Family& family, const std::string& choice);

struct LoadOptions {
  /// Nothing: fp32 on a CPU if that fits into memory (a warning if not), the stored type on a GPU.
  std::optional<at::ScalarType> dtype;
  at::Device device = at::kCPU;
  bool fingerprint = false;  ///< Hash the weights; they are hashed as they are stored, whatever `dtype` is.
  bool tokenizer = true;     ///< Load it too; Error if the folder has none.
  std::string chat_template = kOwnTemplate;  ///< Of the tokenizer (template_settings).
};

/// A model with all that belongs to it.
struct LoadedModel {
  std::shared_ptr<const Family> family;
  std::shared_ptr<const ModelConfig> config;
  std::shared_ptr<CausalLM> model;
  std::shared_ptr<Tokenizer> tokenizer;      ///< nullptr: not asked for
  std::string base_fingerprint;              ///< Empty: not asked for; hashing a large base takes a while.
  at::ScalarType stored_dtype = at::kFloat;  ///< In the folder, or as the configuration of a new model says.
  std::filesystem::path folder;              ///< Where it came from; for a new model its tokenizer's.

  /// Writes the model as it is now, in stored_dtype, with the files beside weights of `folder` (save_model).
  void save(const std::filesystem::path& to) const;
};

/// Reads config.json, tokenizer and weights. What wrappers put in front of names is taken off (io/tensor_folder.h). One
/// Error names the missing, unexpected, misshapen and mistyped tensors, the first of each kind; what is no base of its
/// family (a prefix alone, another model, an unmerged LoRA) is named as what it is. Weights in several forms: it logs
/// which one was read, and warns where they differ. When the head's bytes equal the embedding's they become one tensor;
/// a checkpoint without head is tied.
LoadedModel load(const std::filesystem::path& folder, const LoadOptions& options = {});

/// A new model with random weights, its head tied where its family allows that. `tokenizer`: folder or file.
LoadedModel create(const nlohmann::ordered_json& config, const std::filesystem::path& tokenizer, std::uint64_t seed,
                   at::ScalarType dtype = at::kFloat, at::Device device = at::kCPU,
                   const std::string& chat_template = kOwnTemplate);

/// The type in which a model folder stores its weights.
at::ScalarType stored_dtype(const std::filesystem::path& folder);

struct SaveOptions {
  /// The folder (or a file in it) that the model or its tokenizer came from: what it holds besides weights is copied
  /// (model/folder_files.h), and where its config.json describes this very model, the keys that this library does not
  /// know, such as its own auto_map, are kept.
  std::filesystem::path files_from;
  std::optional<at::ScalarType> dtype = {};  ///< Nothing: as the model is.
  std::uint64_t max_shard_bytes = 4ull << 30;
};

/// Writes config.json and sharded safetensors into `folder` (existing; e.g. an io::AtomicFolder's path). A tied head is
/// one tensor in memory and one in the file.
void save_model(const CausalLM& model, const ModelConfig& config, const std::filesystem::path& folder,
                const SaveOptions& options = {});

}  // namespace moelora::model
