#pragma once
// A method of the comparison. Every method goes through the same cell: it makes a model with or without adapter (by the
// one trainer, or out of other methods' adapters), and the cell evaluates it, so that a method is one file in
// src/experiment/methods with one line in src/experiment/methods/registry.cpp.

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/record.h"
#include "moelora/experiment/config.h"
#include "moelora/model/causal_lm.h"
#include "moelora/model/tokenizer.h"

namespace moelora::experiment {

/// A base model with its tokenizer, as the caller of the experiment opens it.
struct Base {
  std::shared_ptr<model::CausalLM> model;
  std::shared_ptr<model::Tokenizer> tokenizer;
  std::string fingerprint;
  /// Writes the model as it is into an existing folder (full fine-tuning).
  std::function<void(const std::filesystem::path& folder)> save;
};
using OpenBase = std::function<Base(const train::ModelSection&)>;

/// Thrown where work without checkpoints is given up, because whoever runs the cell wants it to stop.
struct Stopped {};

/// What a method works with in one cell.
struct Workbench {
  const ExperimentConfig& experiment;
  train::TrainConfig config;  ///< The method's own: common sections, configure(), the cell's seed, rate and steps.
  Base& base;
  TaskNames tasks;
  std::vector<data::Record> train;  ///< Training part, prompts as in the file.
  std::vector<data::Record> validation;
  std::filesystem::path folder;  ///< Of the cell.
  std::uint64_t seed = 0;
  /// Adapter folder of another method's finished run with the same seed (or its first one): only methods in needs().
  std::function<std::filesystem::path(const std::string& key)> adapter_of;
  std::function<void(const std::string& what, std::int64_t done, std::int64_t total)> status;
  const std::atomic<bool>* stop = nullptr;

  /// Called between the pieces of long work. Throws Stopped.
  void stop_if_asked() const {
    if (stop != nullptr && stop->load()) {
      throw Stopped();
    }
  }
};

/// What is evaluated afterwards.
struct Product {
  Adapter adapter{nullptr};                                 ///< Null: the base model as it is now.
  std::function<data::Record(const data::Record&)> prompt;  ///< The record as it is asked; empty: unchanged.
  std::int64_t max_source_length = 0;                       ///< 0: data.max_source_length
  std::int64_t trained_parameters = 0;
  std::int64_t gate_parameters = 0;  ///< Of them, those of gates and routers.
  std::int64_t steps = 0;
  std::optional<double> validation_loss;
  std::optional<double> training_seconds;
  bool stopped = false;            ///< By Workbench::stop; nothing to evaluate.
  nlohmann::ordered_json details;  ///< Chosen λ, weights found, …: kept with the result.
};

/// What a method is to the whole comparison; at most one method has each.
enum class Role {
  none,
  base,       ///< The model without training.
  baseline,   ///< Others are compared with it, and new tasks are learned with it.
  single,     ///< One adapter for each task: gains and losses are against it.
  yardstick,  ///< Its parameters and step time are the measure of the others'.
};

/// A number of the adapter's configuration that is swept with a method (section "sweeps").
struct SweptNumber {
  std::string parameter;  ///< Key in "sweeps".
  std::function<std::int64_t(const MoeLoraConfig&)> value;
  std::function<void(MoeLoraConfig&, std::int64_t)> set;
};

class Method {
 public:
  Method(std::string key, std::string title, std::string note)
      : key_(std::move(key)), title_(std::move(title)), note_(std::move(note)) {}
  virtual ~Method() = default;

  const std::string& key() const { return key_; }      ///< "moelora-d": in configurations and folders
  const std::string& title() const { return title_; }  ///< "MOELoRA (D)"
  const std::string& note() const { return note_; }    ///< One line: what it is.

  virtual Role role() const { return Role::none; }
  /// Whether the trainer runs, so that seeds and a learning rate matter.
  virtual bool is_trained() const { return false; }
  /// Rows whose adapters it is made of.
  virtual std::vector<std::string> needs() const { return {}; }
  /// Whether it chooses something on the validation part, beside the learning rate of a trained method.
  virtual bool needs_validation() const { return false; }
  /// Whether times are measured: not where nothing is trained and a token costs what the base's does.
  virtual bool has_cost() const { return true; }
  /// Whether the experts' weights of each task are shown.
  virtual bool shows_expert_weights() const { return false; }
  /// A remark below the report, the same one of several methods once; may be empty.
  virtual std::string remark() const { return {}; }
  /// Keys of the experiment's configuration that are this method's own, with their defaults; may be null.
  virtual std::shared_ptr<OwnSettings> own_settings() const { return nullptr; }
  virtual std::vector<SweptNumber> swept() const { return {}; }
  /// What is wrong with an experiment that has this method: (key of the configuration, text).
  virtual std::vector<std::pair<std::string, std::string>> problems(const ExperimentConfig&) const { return {}; }
  /// Why this build does not have it and how to get it; empty: it is there.
  virtual std::string missing() const { return {}; }
  /// Changes the common configuration to the method's own. `tasks`: number of tasks.
  virtual void configure(const ExperimentConfig&, std::int64_t /*tasks*/, train::TrainConfig&) const {}
  /// Why one task of it can't be folded into the weights; empty: it can.
  virtual std::string not_mergeable() const { return {}; }
  /// Whether the adapter as it is stored is what one would serve; false: only its merged form has a meaningful latency.
  virtual bool serves_unmerged() const { return true; }
  virtual Product make(Workbench& bench) const = 0;

 private:
  std::string key_, title_, note_;
};

using MethodPtr = std::shared_ptr<const Method>;

/// All methods that this build has, in the order of the table.
const std::vector<MethodPtr>& methods();
/// Error listing the known keys, or saying how to get a method that this build does not have.
const Method& find_method(const std::string& key);
const Method& method_with(Role role);
/// Those of every method, with their defaults; also of methods that this build does not have.
AllOwnSettings default_own_settings();

/// Trains what bench.config says in bench.folder / "run", resuming what is there: the way of every trained method.
Product train_method(Workbench& bench);

}  // namespace moelora::experiment
