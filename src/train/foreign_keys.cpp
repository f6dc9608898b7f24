#include "train/foreign_keys.h"

#include <nlohmann/json.hpp>

namespace moelora::train {
namespace {

struct ForeignKey {
  const char* key;
  const char* instead;
};

constexpr const char* kSteps =
    "a run is counted in optimizer steps: set training.steps to epochs · records / training.batch_size";
constexpr const char* kRate = "use training.learning_rate";
constexpr const char* kBatch =
    "use training.batch_size (samples of one optimizer step) and training.micro_batch_tokens (tokens computed at once)";
constexpr const char* kSchedule = "use training.schedule: linear, cosine or constant";
constexpr const char* kDtype = "use model.dtype: float32, float16 or bfloat16";

const ForeignKey kForeignKeys[] = {
    {"epochs", kSteps},
    {"epoch", kSteps},
    {"num_epochs", kSteps},
    {"num_train_epochs", kSteps},
    {"max_epochs", kSteps},
    {"max_steps", "use training.steps"},
    {"num_steps", "use training.steps"},
    {"num_train_steps", "use training.steps"},
    {"lr", kRate},
    {"max_lr", kRate},
    {"lr_scheduler", kSchedule},
    {"lr_scheduler_type", kSchedule},
    {"scheduler", kSchedule},
    {"warmup_ratio", "use training.warmup_steps, a number of steps"},
    {"warmup", "use training.warmup_steps, a number of steps"},
    {"num_warmup_steps", "use training.warmup_steps"},
    {"per_device_train_batch_size", kBatch},
    {"train_batch_size", kBatch},
    {"micro_batch_size", kBatch},
    {"gradient_accumulation_steps", kBatch},
    {"gradient_clipping", "use training.max_grad_norm"},
    {"clip_grad_norm", "use training.max_grad_norm"},
    {"adam_beta1", "use training.beta1"},
    {"adam_beta2", "use training.beta2"},
    {"adam_epsilon", "use training.epsilon"},
    {"eval_steps", "use training.validate_every"},
    {"save_steps", "use training.checkpoint_every"},
    {"save_total_limit", "use training.keep_checkpoints"},
    {"logging_steps", "use training.log_every"},
    {"fp16", kDtype},
    {"bf16", kDtype},
    {"gradient_checkpointing", "use training.memory_budget_gb"},
    {"output_dir", "use the option --output"},
};

}  // namespace

void point_to_our_keys(io::JsonReader& reader) {
  for (const auto& [key, instead] : kForeignKeys) {
    nlohmann::ordered_json ignored;
    if (reader.has(key) && reader.read(key, ignored)) {
      reader.problem(key, std::string("unknown key; ") + instead);
    }
  }
}

void point_to_training(io::JsonReader& reader, const nlohmann::ordered_json& training_keys) {
  for (auto entry = training_keys.begin(); entry != training_keys.end(); ++entry) {
    nlohmann::ordered_json ignored;
    if (reader.has(entry.key()) && reader.read(entry.key(), ignored)) {
      reader.problem(entry.key(),
                     "unknown key; it belongs into the section \"training\" (training." + entry.key() + ")");
    }
  }
}

}  // namespace moelora::train
