#pragma once
// What several verbs need together: a model, its tokenizer and perhaps an adapter that fits them.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/record.h"
#include "moelora/io/readable.h"
#include "moelora/model/generation.h"
#include "moelora/model/registry.h"
#include "moelora/train/config.h"

namespace moelora::cli {

inline constexpr const char* kStoredDtype = "stored";  ///< SessionOptions::dtype: as the model folder has it.

struct SessionOptions {
  std::filesystem::path model;
  std::filesystem::path adapter;                    ///< Empty: the base alone.
  std::string device = "auto";                      ///< auto: a GPU if LibTorch sees one.
  std::string dtype = "auto";                       ///< auto: fp32 on a CPU if that fits, the stored type on a GPU.
  int threads = 0;                                  ///< 0: as LibTorch chooses.
  bool fingerprint = false;                         ///< Hash the base also without an adapter.
  std::string chat_template = model::kOwnTemplate;  ///< model, none or a file.
};

void add_session_options(CLI::App& verb, SessionOptions& options, bool adapter_required);
CLI::Option* add_template_option(CLI::App& verb, SessionOptions& options);
/// --device, --dtype and --threads alone.
void add_compute_options(CLI::App& verb, SessionOptions& options);

struct Session : model::LoadedModel {
  Adapter adapter{nullptr};
  std::filesystem::path adapter_folder;  ///< Where it was loaded from.
  std::string source_prefix;             ///< What stood before every input that it was trained on.

  /// The contexts of forwards whose sequence i has task `tasks[i]` (index in the adapter's names); empty, for plain
  /// ones, without an adapter or while it is merged.
  nn::ContextMaker context_maker(const std::vector<std::int64_t>& tasks) const;
  /// Index of each record's task in the adapter's names; zeros without an adapter. Error naming the unknown task.
  std::vector<std::int64_t> tasks_of(const std::vector<data::Record>& records) const;
};

/// Loads all parts. Error if the adapter belongs to another base or tokenizer.
Session open_session(const SessionOptions& options);

/// The model of a configuration: a folder's, or a new one with random weights.
Session open_model(const train::ModelSection& section, const std::string& chat_template = model::kOwnTemplate);

/// Writes a trained model in the type that its configuration names, whatever it was computed in, with the files beside
/// weights that the section's folders hold: the model's, and those of a tokenizer of its own over them.
void save_model(const Session& session, const std::filesystem::path& folder, const train::ModelSection& section);

at::Device parse_device(const std::string& text);
at::ScalarType parse_dtype(const std::string& text);  ///< float32, float16, bfloat16 (or fp32, fp16, bf16).

/// Error if `folder` exists and holds anything.
void require_empty(const std::filesystem::path& folder);
/// Error if an adapter's folder would hold it: a run that writes its adapter there again would find a stranger's file.
void require_outside_adapters(const std::filesystem::path& output);

using io::with_commas;

}  // namespace moelora::cli
