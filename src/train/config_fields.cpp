#include "train/config_fields.h"

#include <algorithm>

#include "moelora/adapter/config_fields.h"

namespace moelora::train {
namespace {

using io::at_least;
using io::at_most;
using io::OnResume;

const std::vector<std::string> kModes{"adapter", "full", "new_task"};
const std::vector<std::string> kSchedules{"linear", "cosine", "constant"};
const std::vector<std::string> kBatchings{"random", "by_task"};
const std::vector<std::string> kDtypes{"auto", "float32", "float16", "bfloat16"};

// What is said of other programs' keys.
constexpr const char* kSteps =
    "a run is counted in optimizer steps: set training.steps to epochs · records / training.batch_size";
constexpr const char* kBatch =
    "use training.batch_size (samples of one optimizer step) and training.micro_batch_tokens (tokens computed at once)";
constexpr const char* kSchedule = "use training.schedule: linear, cosine or constant";
constexpr const char* kWarmup = "use training.warmup_steps, a number of steps";
constexpr const char* kDtype = "use model.dtype: float32, float16 or bfloat16";

// Far beyond any use: steps · batch_size counts samples in 64 bits.
constexpr std::int64_t kMostSteps = std::int64_t{1} << 38;

void fields(io::FieldVisitor& visit, ModelSection& model) {
  visit({.key = "path",
         .meaning = "folder of the model: config.json, weights, ice_text.model (required, unless \"init\" is given)",
         .written = model.init.is_null()},
        model.path);
  visit({.key = "init",
         .meaning = "instead of path: keys of a new model's config.json; its weights are random",
         .written = !model.init.is_null(),
         .example = R"({"hidden_size": 64, "num_layers": 2})"},
        model.init);
  visit({.key = "tokenizer",
         .meaning = "folder with ice_text.model; default: path",
         .written = !model.tokenizer.empty(),
         .example = R"("FOLDER")"},
        model.tokenizer);
  visit({"seed", "of a new model's weights"}, model.seed);
  visit.choice({.key = "dtype",
                .meaning = "what is computed in: auto (float32 on a CPU if it fits into memory, as stored on a GPU), "
                           "float32, float16, bfloat16",
                .other_names = {{"fp16", kDtype}, {"bf16", kDtype}}},
               kDtypes, model.dtype);
  visit({"device", "auto (a GPU if there is one), cpu, cuda, cuda:N"}, model.device);
}

std::string known_size(std::int64_t size) {
  return size >= -1 ? "" : detail::concat("expected 0 or more, found ", size);
}

std::string all_or_more(std::int64_t records) {
  return records >= 0 ? "" : detail::concat("expected 0 (all) or more, found ", records);
}

/// A problem without the key that the list of problems names anyway.
std::string without_place(const std::string& problem, const std::string& place) {
  return problem.starts_with(place) ? problem.substr(place.size()) : problem;
}

/// One of the keys "train" and "validation". `weighted`: weights mean something.
std::string take_files(const nlohmann::ordered_json& json, const std::string& key, bool weighted, std::string& path,
                       std::vector<DataFile>& files) {
  try {
    DataFiles read = data_files_from_json(json, "data." + key);
    path = std::move(read.path);
    files = std::move(read.files);
  } catch (const Error& error) {
    return without_place(error.what(), "data." + key + ": ");
  }
  const bool has_weight = std::any_of(files.begin(), files.end(), [](const auto& file) { return file.weight != 1.0; });
  return !weighted && has_weight ? "a weight is for training records alone; leave it out" : "";
}

std::string take_fields(const nlohmann::ordered_json& json, data::FieldMap& map) {
  try {
    map = data::FieldMap::from_json(json, "data.fields");
    return {};
  } catch (const Error& error) {
    return without_place(error.what(), "data.fields: ");
  }
}

void fields(io::FieldVisitor& visit, DataSection& data) {
  nlohmann::ordered_json train = to_json(data.train, data.train_files);
  visit({"train",
         "file of the training records (required), or a list of files: [{\"file\": \"a.json\", \"weight\": 2.0, "
         "\"fields\": …}, …];\nrecords of weight 2 are drawn twice as often as those of weight 1"},
        train, [&](const nlohmann::ordered_json& json) {
          const std::string problem = take_files(json, "train", true, data.train, data.train_files);
          return problem.empty() && data.training().empty() ? "the file of training records is missing" : problem;
        });
  nlohmann::ordered_json validation = to_json(data.validation, data.validation_files);
  visit({.key = "validation",
         .meaning = "file of the validation records, or a list; null: a part of the training records is taken",
         .accepts_null = true},
        validation, [&](const nlohmann::ordered_json& json) {
          return take_files(json, "validation", false, data.validation, data.validation_files);
        });
  nlohmann::ordered_json fields = data.fields.to_json();
  visit({.key = "fields",
         .meaning = "which fields are prompt, answer, task and choices: promptcblue (default), alpaca, sharegpt, "
                    "messages, or an object",
         .written = !data.fields.is_default(),
         .example = R"({"prompt": "{question}\n{context?}", "answer": "{answer}", "task": "category"})",
         .accepts_null = true},
        fields, [&](const nlohmann::ordered_json& json) { return take_fields(json, data.fields); });
  visit({.key = "validation_size",
         .meaning = "records taken for validation; -1: 5 %, at most 500; 0: none",
         .written = data.validating().empty()},
        data.validation_size, known_size);
  visit.section({"part", "use only the records whose hash modulo \"of\" is \"index\""}, [&](io::FieldVisitor& part) {
    part({"index", "of the part"}, data.part_index);
    part({"of", "number of parts"}, data.part_of);
  });
  visit({"tasks", "only the records of these tasks; empty: all"}, data.tasks);
  visit({"without_tasks", "all tasks but these"}, data.without_tasks);
  visit({"max_records", "so many of the training records, chosen by a hash; 0: all"}, data.max_records, all_or_more);
  visit({"as_text", "plain language modelling: input and target are one text to be continued, of one task"},
        data.as_text);
  visit({.key = "task_prompts",
         .meaning = "JSON file of texts in front of each task's inputs; empty: none",
         .accepts_null = true},
        data.task_prompts);
  visit({"deduplicate", "leave out records whose input, target and task were seen before"}, data.deduplicate);
  visit({"max_source_length", "longest prompt in tokens; longer ones are cut"}, data.encode.max_source_length,
        at_least(3));
  visit({"max_target_length", "longest answer in tokens, its end included; longer ones are cut"},
        data.encode.max_target_length, at_least(3));
  visit.choice({"cut", "which part of a longer prompt is removed: tail, head, middle, or error"}, data::cut_names(),
               data.encode.cut);
  visit(
      {.key = "template",
       .meaning = "how prompts are written: model (the base's chat template), none (texts as they are), or a file with "
                  "a template",
       .written = data.chat_template != "model",
       .example = R"("none")"},
      data.chat_template);
  visit({"source_prefix", "text in front of every input"}, data.encode.source_prefix);
  visit({"with_history",
         "write inputs without earlier turns as the first round of a dialogue too, as MOELoRA-peft's training does; "
         "without effect where a chat template writes the prompts"},
        data.encode.with_history);
}

}  // namespace

void fields(io::FieldVisitor& visit, TrainingOptions& options) {
  visit({.key = "steps",
         .meaning = "optimizer steps; an epoch is records / batch_size of them",
         .on_resume = OnResume::learned,
         .other_names = {{"epochs", kSteps},
                         {"epoch", kSteps},
                         {"num_epochs", kSteps},
                         {"num_train_epochs", kSteps},
                         {"max_epochs", kSteps},
                         {"max_steps", nullptr},
                         {"num_steps", nullptr},
                         {"num_train_steps", nullptr}}},
        options.steps, at_least(1), at_most(kMostSteps));
  visit({.key = "batch_size",
         .meaning = "samples of one optimizer step",
         .other_names = {{"per_device_train_batch_size", kBatch},
                         {"train_batch_size", kBatch},
                         {"micro_batch_size", kBatch},
                         {"gradient_accumulation_steps", kBatch}}},
        options.batch_size, at_least(1), at_most(1'000'000));
  visit(
      {"micro_batch_tokens", "tokens that are computed at once: bounds the memory, not the result", OnResume::rounding},
      options.micro_batch_tokens, at_least(1));
  visit(
      {.key = "memory_budget_gb",
       .meaning = "peak memory in 10^9 bytes, of the process on a CPU, of the card on a GPU: blocks are recomputed in "
                  "backward to keep to it; 0: no limit",
       .on_resume = OnResume::free,
       .other_names = {{"gradient_checkpointing", nullptr}}},
      options.memory_budget_gb, at_least(0));
  visit({.key = "learning_rate",
         .meaning = "at the peak of the schedule",
         .on_resume = OnResume::learned,
         .other_names = {{"lr", nullptr}, {"max_lr", nullptr}}},
        options.learning_rate, at_least(0));
  visit({"gate_learning_rate_ratio",
         "learning rate of the gate (task embeddings, projection) and of token routers, over learning_rate; without "
         "effect where nothing routes",
         OnResume::learned},
        options.gate_learning_rate_ratio, at_least(0));
  visit({"weight_decay", "of every trained parameter (AdamW)", OnResume::learned}, options.weight_decay, at_least(0));
  visit({.key = "beta1",
         .meaning = "AdamW: of the mean of the gradients",
         .on_resume = OnResume::learned,
         .other_names = {{"adam_beta1", nullptr}}},
        options.beta1, io::fraction);
  visit({.key = "beta2",
         .meaning = "AdamW: of the mean of their squares",
         .on_resume = OnResume::learned,
         .other_names = {{"adam_beta2", nullptr}}},
        options.beta2, io::fraction);
  visit({.key = "epsilon",
         .meaning = "AdamW: added to the root in the denominator",
         .on_resume = OnResume::learned,
         .other_names = {{"adam_epsilon", nullptr}}},
        options.epsilon, io::above_zero);
  visit({.key = "warmup_steps",
         .meaning = "steps of linear rise of the learning rate",
         .on_resume = OnResume::learned,
         .other_names = {{"warmup_ratio", kWarmup}, {"warmup", kWarmup}, {"num_warmup_steps", nullptr}}},
        options.warmup_steps, at_least(0));
  visit.choice(
      {.key = "schedule",
       .meaning = "after the rise: linear, cosine (both to 0) or constant",
       .on_resume = OnResume::learned,
       .other_names = {{"lr_scheduler", kSchedule}, {"lr_scheduler_type", kSchedule}, {"scheduler", kSchedule}}},
      kSchedules, options.schedule);
  visit({.key = "max_grad_norm",
         .meaning = "gradients are scaled down to this global norm; 0: off",
         .on_resume = OnResume::learned,
         .other_names = {{"gradient_clipping", nullptr}, {"clip_grad_norm", nullptr}}},
        options.max_grad_norm, at_least(0));
  visit({"seed", "of the order of samples, of dropout and of the validation part"}, options.seed);
  visit.choice({"batching", "random (batches mix tasks) or by_task (each batch has one task)"}, kBatchings,
               options.batching);
  visit({.key = "log_every",
         .meaning = "steps between losses by task and expert weights in the log",
         .on_resume = OnResume::free,
         .other_names = {{"logging_steps", nullptr}}},
        options.log_every, at_least(1));
  visit({.key = "validate_every",
         .meaning = "steps between validations; 0: with every checkpoint",
         .on_resume = OnResume::free,
         .other_names = {{"eval_steps", nullptr}}},
        options.validate_every, at_least(0));
  visit({.key = "checkpoint_every",
         .meaning = "steps between checkpoints; one more is written at the end and when it is stopped",
         .on_resume = OnResume::free,
         .other_names = {{"save_steps", nullptr}}},
        options.checkpoint_every, at_least(1));
  visit({.key = "keep_checkpoints",
         .meaning = "the newest ones that are kept, besides the best one by validation loss",
         .on_resume = OnResume::free,
         .other_names = {{"save_total_limit", nullptr}}},
        options.keep_checkpoints, at_least(1));
  visit({"threads", "of the computation; 0: all cores", OnResume::free}, options.threads, at_least(0), at_most(4096));
}

void fields(io::FieldVisitor& visit, TrainConfig& config, nlohmann::ordered_json& adapter) {
  visit.choice({"mode",
                "adapter: the base is frozen, an adapter is trained\n"
                "new_task: one more task for the adapter in adapter_from; only its embedding is trained\n"
                "full: every parameter of the model is trained"},
               kModes, config.mode);
  visit.section({"model", "The base."}, [&](io::FieldVisitor& section) { fields(section, config.model); });
  visit({.key = "adapter",
         .meaning = "What is trained in mode adapter; left out in the other modes.",
         .written = adapter.is_object()},
        adapter);
  visit({.key = "adapter_from",
         .meaning =
             "folder of a trained adapter. Mode new_task adds a task to it; mode adapter begins with its values, then "
             "the\nsection \"adapter\" is left out or agrees with it",
         .written = !config.adapter_from.empty(),
         .example = R"("out/run/adapter")",
         .accepts_null = true},
        config.adapter_from);
  visit.section({"data", "The records: JSON lines or an array."},
                [&](io::FieldVisitor& section) { fields(section, config.data); });
  visit.section(
      {.key = "training", .meaning = "How it is trained.", .other_names = {{"output_dir", "use the option --output"}}},
      [&](io::FieldVisitor& section) { fields(section, config.training); });
}

const io::FieldList& train_fields() {
  static const io::FieldList list = [] {
    io::FieldList all;
    TrainConfig config;
    nlohmann::ordered_json adapter;
    fields(all, config, adapter);
    io::FieldList of_adapter;
    fields(of_adapter, config.adapter);
    for (const auto& [key, field] : of_adapter.all) {
      all.all.emplace_back("adapter." + key, field);
    }
    return all;
  }();
  return list;
}

}  // namespace moelora::train
