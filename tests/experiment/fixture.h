#pragma once
// A small experiment on the tiny base and the sample data of the repository.

#include <ATen/Parallel.h>

#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moelora/experiment/cell.h"
#include "moelora/log/log.h"
#include "moelora/model/registry.h"
#include "moelora/model/weights.h"
#include "support/shared.h"

namespace moelora::experiment::fixture {

inline std::filesystem::path source(const std::string& path) {
  return std::filesystem::path(MOELORA_SOURCE_DIR) / path;
}

/// A small model folder with the linears that adapters adapt in it.
struct BaseFolder {
  std::string name;
  std::filesystem::path path;
  std::vector<std::string> targets;
};

inline BaseFolder prefix_lm_base() {
  return {
      "tiny_base", source("examples/tiny_base/model"), {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}};
}

/// A causal decoder: grouped heads, biases on some linears, a tied head, tokenizer.json.
inline BaseFolder causal_base() {
  return {"qwen2_tiny",
          testing::fixtures() / "qwen2-tiny",
          {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
}

/// The base with a number added to the weights of one norm: another base of the same shape (0: the base itself).
inline OpenBase tiny_base(double change = 0.0, const BaseFolder& folder = prefix_lm_base()) {
  log::set_level(log::Level::warning);
  at::set_num_threads(1);
  return [change, folder](const train::ModelSection&) {
    auto loaded = std::make_shared<model::LoadedModel>(model::load(folder.path));
    if (change != 0.0) {
      at::NoGradGuard no_grad;
      for (auto& parameter : loaded->model->named_parameters()) {
        if (parameter.value().dim() == 1 && parameter.key().ends_with("norm.weight")) {
          parameter.value().add_(change);
          break;
        }
      }
    }
    Base base;
    base.model = loaded->model;
    base.tokenizer = loaded->tokenizer;
    base.fingerprint = model::base_fingerprint(*loaded->model);
    base.save = [loaded](const std::filesystem::path& to) {
      model::save_model(*loaded->model, *loaded->config, to, {loaded->folder});
    };
    return base;
  };
}

/// `count` records of each task of a file, as JSON lines.
inline void write_few(const std::filesystem::path& from, const std::filesystem::path& to, std::int64_t count) {
  std::map<std::string, std::int64_t> seen;
  std::ofstream stream(to);
  for (const data::Record& record : data::read_records(from).records) {
    if (seen[record.task]++ < count) {
      stream << data::to_json(record).dump() << "\n";
    }
  }
}

/// Three steps, a few records of each task; files below `folder`.
inline nlohmann::ordered_json small_experiment(const std::filesystem::path& folder,
                                               const BaseFolder& base = prefix_lm_base()) {
  write_few(source("examples/sample_data/train.json"), folder / "train.json", 8);
  write_few(source("examples/sample_data/dev.json"), folder / "dev.json", 1);
  return {
      {"title", "small"},
      {"model", {{"path", "tiny"}}},
      {"adapter",
       {{"rank", 8},
        {"num_experts", 4},
        {"alpha", 16},
        {"dropout", 0.1},
        {"task_embedding_dim", 8},
        {"targets", base.targets}}},
      {"data",
       {{"train", (folder / "train.json").string()},
        {"validation_size", 8},
        {"max_source_length", 96},
        {"max_target_length", 12}}},
      {"evaluation", (folder / "dev.json").string()},
      {"task_prompts", source("configs/task_prompts.json").string()},
      {"training", {{"steps", 3}, {"batch_size", 8}, {"learning_rate", 1e-2}, {"checkpoint_every", 2}, {"threads", 1}}},
      {"in_context", {{"examples", 1}, {"max_source_length", 160}}},
      {"prefix_length", 4},
      {"composition", {{"lambdas", {0.5, 1.0}}, {"densities", {0.5}}, {"drop_rates", {0.5}}}},
      {"lorahub", {{"examples", 2}, {"evaluations", 10}}},
      {"costs", true},
      {"cost_rounds", 1}};
}

inline Cell cell_of(const ExperimentConfig& config, const std::string& id) {
  for (const Cell& cell : plan_cells(config)) {
    if (cell.id == id) {
      return cell;
    }
  }
  throw std::runtime_error("no cell " + id);
}

inline std::string bytes_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

}  // namespace moelora::experiment::fixture
