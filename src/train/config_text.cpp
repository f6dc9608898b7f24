#include "moelora/train/config_text.h"

#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "moelora/io/error.h"

namespace moelora::train {
namespace {

using nlohmann::ordered_json;

struct KeyText {
  const char* key;      // with its sections
  const char* meaning;  // a line each
  const char* example;  // of a key that is not part of every configuration: JSON; null: it always is
};

const KeyText kKeyTexts[] = {
    {"mode",
     "adapter: the base is frozen, an adapter is trained\n"
     "new_task: one more task for the adapter in adapter_from; only its embedding is trained\n"
     "full: every parameter of the model is trained",
     nullptr},
    {"model", "The base.", nullptr},
    {"model.path", "folder of the model: config.json, weights, ice_text.model (required, unless \"init\" is given)",
     nullptr},
    {"model.init", "instead of path: keys of a new model's config.json; its weights are random",
     R"({"hidden_size": 64, "num_layers": 2})"},
    {"model.tokenizer", "folder with ice_text.model; default: path", R"("FOLDER")"},
    {"model.seed", "of a new model's weights", nullptr},
    {"model.dtype",
     "what is computed in: auto (float32 on a CPU if it fits into memory, as stored on a GPU), float32, float16, "
     "bfloat16",
     nullptr},
    {"model.device", "auto (a GPU if there is one), cpu, cuda, cuda:N", nullptr},
    {"adapter", "What is trained in mode adapter; left out in the other modes.", nullptr},
    {"adapter.rank", "total rank r of a linear's update; each expert has r / num_experts of it", nullptr},
    {"adapter.num_experts", "N; 1 is plain LoRA", nullptr},
    {"adapter.alpha", "the update is scaled by alpha / rank", nullptr},
    {"adapter.dropout", "on the input of A, 0 or more and below 1", nullptr},
    {"adapter.routing",
     "where the experts' weights come from: task (MOELoRA), uniform (no gate), token (MoLoRA), single (one LoRA for "
     "each task), table (fixed)",
     nullptr},
    {"adapter.top_k", "0: all experts; k: only those of the k largest logits", nullptr},
    {"adapter.per_linear", "a gate for each adapted linear instead of one for the model", nullptr},
    {"adapter.table", "routing table: the experts' weights of each task", "[[1.0, 0.0], [0.0, 1.0]]"},
    {"adapter.balance_loss", "routing token: weight of the balancing loss; 0: off", "0.01"},
    {"adapter.task_embedding_dim", "numbers of a task's embedding", nullptr},
    {"adapter.reserved_rows", "rows in front of the tasks' embeddings; 1 in adapters read from MOELoRA-peft", nullptr},
    {"adapter.targets", "linears that get an update: ends of their names, or regular expressions for whole names",
     nullptr},
    {"adapter.seed", "of the initial values", nullptr},
    {"adapter.prefix", "trained keys and values in front of every layer's own (P-Tuning v2); such adapters don't merge",
     R"({"length": 16, "projection": false, "dropout": 0.1})"},
    {"adapter_from",
     "folder of a trained adapter. Mode new_task adds a task to it; mode adapter begins with its values, then the\n"
     "section \"adapter\" is left out or agrees with it",
     R"("out/run/adapter")"},
    {"data", "The records: JSON lines or one array with input, target and task_dataset.", nullptr},
    {"data.train", "file of the training records (required)", nullptr},
    {"data.validation", "file of the validation records; null: a part of the training records is taken", nullptr},
    {"data.validation_size", "records taken for validation; -1: 5 %, at most 500; 0: none", nullptr},
    {"data.part", "use only the records whose hash modulo \"of\" is \"index\"", nullptr},
    {"data.tasks", "only the records of these tasks; empty: all", nullptr},
    {"data.without_tasks", "all tasks but these", nullptr},
    {"data.max_records", "so many of the training records, chosen by a hash; 0: all", nullptr},
    {"data.as_text", "plain language modelling: input and target are one text to be continued, of one task", nullptr},
    {"data.task_prompts", "JSON file of texts in front of each task's inputs; empty: none", nullptr},
    {"data.deduplicate", "leave out records whose input, target and task were seen before", nullptr},
    {"data.max_source_length", "longest prompt in tokens; longer ones are cut", nullptr},
    {"data.max_target_length", "longest answer in tokens, its end included; longer ones are cut", nullptr},
    {"data.cut", "which part of a longer prompt is removed: tail, head, middle, or error", nullptr},
    {"data.source_prefix", "text in front of every input", nullptr},
    {"data.with_history", "earlier turns of a dialogue in front of the input", nullptr},
    {"training", "How it is trained.", nullptr},
    {"training.steps", "optimizer steps; an epoch is records / batch_size of them", nullptr},
    {"training.batch_size", "samples of one optimizer step", nullptr},
    {"training.micro_batch_tokens", "tokens that are computed at once: bounds the memory, not the result", nullptr},
    {"training.memory_budget_gb",
     "peak memory on a CPU in 10^9 bytes: blocks are recomputed in backward to keep to it; 0: no limit", nullptr},
    {"training.learning_rate", "at the peak of the schedule", nullptr},
    {"training.weight_decay", "of every trained parameter (AdamW)", nullptr},
    {"training.beta1", "AdamW: of the mean of the gradients", nullptr},
    {"training.beta2", "AdamW: of the mean of their squares", nullptr},
    {"training.epsilon", "AdamW: added to the root in the denominator", nullptr},
    {"training.warmup_steps", "steps of linear rise of the learning rate", nullptr},
    {"training.schedule", "after the rise: linear, cosine (both to 0) or constant", nullptr},
    {"training.max_grad_norm", "gradients are scaled down to this global norm; 0: off", nullptr},
    {"training.seed", "of the order of samples, of dropout and of the validation part", nullptr},
    {"training.batching", "random (batches mix tasks) or by_task (each batch has one task)", nullptr},
    {"training.log_every", "steps between losses by task and expert weights in the log", nullptr},
    {"training.validate_every", "steps between validations; 0: with every checkpoint", nullptr},
    {"training.checkpoint_every", "steps between checkpoints; one more is written at the end and when it is stopped",
     nullptr},
    {"training.keep_checkpoints", "the newest ones that are kept, besides the best one by validation loss", nullptr},
    {"training.threads", "of the computation; 0: all cores", nullptr},
};

std::string joined(const std::string& section, const std::string& key) {
  return section.empty() ? key : section + "." + key;
}

void add_comment(std::string& text, const std::string& indent, const std::string& meaning) {
  for (std::size_t begin = 0; begin < meaning.size();) {
    const std::size_t end = std::min(meaning.find('\n', begin), meaning.size());
    text += indent + "// " + meaning.substr(begin, end - begin) + "\n";
    begin = end + 1;
  }
}

/// The keys of a section that the configuration leaves out, as comments.
void add_absent_keys(std::string& text, const std::string& indent, const ordered_json& object,
                     const std::string& section) {
  for (const auto& [path, meaning, example] : kKeyTexts) {
    const std::string full = path;
    const std::size_t dot = full.rfind('.');
    const std::string parent = dot == std::string::npos ? std::string() : full.substr(0, dot);
    const std::string key = full.substr(dot == std::string::npos ? 0 : dot + 1);
    if (example != nullptr && parent == section && !object.contains(key)) {
      add_comment(text, indent, meaning);
      text += indent + "// \"" + key + "\": " + example + ",\n";
    }
  }
}

void add_object(std::string& text, const ordered_json& object, const std::string& section, int depth) {
  const std::string indent(static_cast<std::size_t>(2 * depth), ' ');
  text += "{\n";
  add_absent_keys(text, indent, object, section);
  for (auto entry = object.begin(); entry != object.end(); ++entry) {
    const std::string path = joined(section, entry.key());
    for (const auto& known : kKeyTexts) {
      if (path == known.key) {
        add_comment(text, indent, known.meaning);
      }
    }
    text += indent + ordered_json(entry.key()).dump() + ": ";
    // The sections have a line for each key; what lies deeper (data.part, model.init) is one value.
    if (section.empty() && entry.value().is_object()) {
      add_object(text, entry.value(), path, depth + 1);
    } else {
      text += entry.value().dump(-1, ' ', false, ordered_json::error_handler_t::replace);
    }
    text += std::next(entry) == object.end() ? "\n" : ",\n";
  }
  text += std::string(static_cast<std::size_t>(2 * (depth - 1)), ' ') + "}";
}

}  // namespace

std::string documented_config(const TrainConfig& config) {
  std::string text =
      "// A configuration of `moelora train`. Lines of // are comments; --set training.steps=100 overrides a key.\n";
  add_object(text, config.to_json(), "", 1);
  return text + "\n";
}

std::string documented_default_config() {
  TrainConfig config;
  config.model.path = "FOLDER";
  config.data.train = "FILE";
  return documented_config(config);
}

}  // namespace moelora::train
