#pragma once
// The configuration of `moelora train` as typed structs. As JSON it has the sections mode, model, adapter (or the key
// adapter_from: a trained adapter to begin with), data and training, with the names of the members below as keys.
// Unknown keys, wrong types and values out of range are all listed in one Error. `moelora train --print-config` shows
// every key with its meaning (train/config_text.h).

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moelora/adapter/config.h"
#include "moelora/data/example.h"
#include "moelora/data/field_map.h"
#include "moelora/data/sampler.h"
#include "moelora/train/data_files.h"
#include "moelora/train/schedule.h"

namespace moelora::train {

enum class Mode {
  adapter,   ///< The base is frozen; an adapter is trained.
  full,      ///< Every parameter of the base is trained; no adapter.
  new_task,  ///< A trained adapter gets one more task, and only that task's embedding is trained (train/new_task.h).
};

/// Section "model": {"path": folder} or {"init": {…}, "tokenizer": folder, "seed": n}; "dtype" and "device" for both.
struct ModelSection {
  std::string path;             ///< A model folder. Empty: `init` describes a new model.
  nlohmann::ordered_json init;  ///< Keys of the model's own config.json; the model room interprets them. Null: `path`.
  std::string tokenizer;        ///< Folder of the tokenizer. Default: `path`.
  std::uint64_t seed = 0;       ///< Of a new model's weights.
  std::string dtype = "auto";   ///< auto (fp32 on a CPU, as stored on a GPU), float32, float16, bfloat16
  std::string device = "auto";  ///< auto (a GPU if there is one), cpu, cuda, cuda:N

  const std::string& tokenizer_path() const { return tokenizer.empty() ? path : tokenizer; }
};

/// Section "data". The keys of `encode` stand in the section itself.
struct DataSection {
  std::string train;                       ///< File of records. Required, unless there are `train_files`.
  std::vector<DataFile> train_files;       ///< "train" as a list: several files, with weights.
  std::string validation;                  ///< File of records; empty (null): a part is carved out of `train`.
  std::vector<DataFile> validation_files;  ///< "validation" as a list.
  /// How prompts are written: "model" (the base's chat template, or its one form), "none", or a file with a template.
  std::string chat_template = "model";
  data::FieldMap fields;              ///< Which fields of a record are prompt, answer, task and choices.
  std::int64_t validation_size = -1;  ///< Records carved out; -1: 5 %, at most 500; 0: none.
  std::int64_t part_index = 0;        ///< "part": {"index", "of"}: train on the records whose hash mod of is index.
  std::int64_t part_of = 1;
  std::vector<std::string> tasks;          ///< Only the records of these tasks; empty: all.
  std::vector<std::string> without_tasks;  ///< All but these; not beside `tasks`.
  /// That are taken of `train`, chosen by a hash of the record; the validation part is carved out of them. 0: all.
  std::int64_t max_records = 0;
  /// Plain language modelling: each record's text is continued (data/as_text.h); one task, "text".
  bool as_text = false;
  std::string task_prompts;  ///< JSON file (data::TaskPrompts): texts in front of the inputs; empty: none.
  bool deduplicate = true;   ///< Leave out records whose input, target and task were seen before.
  /// max_source_length, max_target_length (tokens), cut (tail, head, middle or error: what an input that is too long
  /// loses), source_prefix, with_history
  data::EncodeOptions encode;

  std::vector<DataFile> training() const { return listed(train, train_files); }
  std::vector<DataFile> validating() const { return listed(validation, validation_files); }  ///< None: carved out.
};

/// Section "training": all that the trainer itself needs.
struct TrainingOptions {
  std::int64_t steps = 1000;               ///< Optimizer steps.
  std::int64_t batch_size = 64;            ///< Samples of one optimizer step.
  std::int64_t micro_batch_tokens = 4096;  ///< Rows that are computed at once; bounds the memory, not the result.
  /// Peak memory in 10^9 bytes, of the process on a CPU, of the card on a GPU: blocks are recomputed in backward, as
  /// many as it takes. 0: no limit. Changes time and memory, not the numbers.
  double memory_budget_gb = 0.0;
  double learning_rate = 2e-4;  ///< At the peak of the schedule.
  /// The learning rate of gates and token routers, over learning_rate. Without them it changes nothing.
  double gate_learning_rate_ratio = 1.0;
  double weight_decay = 0.0;  ///< Of every parameter, per step times the learning rate (AdamW).
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  std::int64_t warmup_steps = 0;                     ///< Steps of linear rise.
  Schedule schedule = Schedule::linear;              ///< linear, cosine, constant
  double max_grad_norm = 1.0;                        ///< Gradients are scaled down to this global norm; 0: off.
  std::uint64_t seed = 42;                           ///< Of the order of samples, dropout and the validation part.
  data::Batching batching = data::Batching::random;  ///< random, by_task
  std::int64_t log_every = 10;                       ///< Steps between losses by task and expert weights in the log.
  std::int64_t validate_every = 0;                   ///< Steps; 0: with every checkpoint.
  std::int64_t checkpoint_every = 500;  ///< Steps. One more is written at the end and when the run is stopped.
  std::int64_t keep_checkpoints = 2;    ///< The newest ones; the best one by validation loss is kept besides.
  std::int64_t threads = 0;             ///< 0: as LibTorch chooses.

  static TrainingOptions from_json(const nlohmann::ordered_json& json);
  nlohmann::ordered_json to_json() const;
  void validate() const;  ///< Error listing every problem.
};

struct TrainConfig {
  Mode mode = Mode::adapter;
  ModelSection model;
  MoeLoraConfig adapter;     ///< Mode adapter only. With adapter_from: filled by take_adapter_config().
  std::string adapter_from;  ///< Folder of a trained adapter: needed in mode new_task, its values are what mode adapter
                             ///< begins with (train/begin_from.h).
  nlohmann::ordered_json adapter_given;  ///< Mode adapter with adapter_from: the section "adapter" as written, or null.
  DataSection data;
  TrainingOptions training;

  static TrainConfig from_json(const nlohmann::ordered_json& json);
  nlohmann::ordered_json to_json() const;  ///< Every key with its value, defaults too.
};

/// Applies "training.steps=100" to a configuration's JSON: the value is read as JSON, or as a string if it is none.
/// Missing sections are made. Error without '=' or when a section on the way is no object.
void apply_override(nlohmann::ordered_json& json, const std::string& assignment);

}  // namespace moelora::train
