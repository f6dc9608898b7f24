// moelora import: an adapter or a prefix of another program in the library's own format.

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/session.h"
#include "cli/standalone_adapter.h"
#include "cli/verbs.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/provenance.h"

namespace moelora::cli {
namespace {

struct ImportOptions {
  std::filesystem::path adapter;
  std::filesystem::path tasks;
  std::filesystem::path output;
  bool per_linear = false;
};

void run_import(const ImportOptions& options) {
  require_empty(options.output);
  ForeignOptions foreign;
  foreign.per_linear = options.per_linear;
  if (!options.tasks.empty()) {
    const nlohmann::ordered_json names = io::read_json_file(options.tasks);
    MOELORA_CHECK(names.is_array(), options.tasks.string(), ": expected an array of task names");
    for (const auto& name : names) {
      MOELORA_CHECK(name.is_string(), options.tasks.string(), ": expected task names, found ", name.dump());
      foreign.task_names.push_back(name.get<std::string>());
    }
  }
  const StandaloneAdapter alone = load_foreign_standalone_adapter(options.adapter, foreign);
  require_finite(*alone.adapter);
  nlohmann::ordered_json provenance = io::provenance();
  provenance["imported_from"] = std::filesystem::absolute(options.adapter).filename().string();
  // Which base it belongs to is not recorded in those formats.
  save_adapter(*alone.adapter, options.output, "", "", provenance);
  std::cout << "Wrote " << options.output.string() << ": ";
  if (alone.adapter->prefix_encoder()) {
    const PrefixConfig& prefix = *alone.adapter->config().prefix;
    std::cout << "a prefix of " << prefix.length << " positions" << (prefix.projection ? " with projection" : "");
  } else {
    std::cout << alone.adapter->linears().size() << " linears";
  }
  std::cout << ", tasks";
  for (const std::string& name : alone.adapter->tasks().names()) {
    std::cout << " " << name;
  }
  std::cout << std::endl;
}

}  // namespace

void add_import(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand(
      "import", "read an adapter of PEFT (LoRA) or MOELoRA-peft, or a P-Tuning v2 prefix, into the own format");
  auto options = std::make_shared<ImportOptions>();
  verb->add_option(
          "--adapter", options->adapter,
          "folder with adapter_config.json and adapter_model.{safetensors,bin}, or with a checkpoint that holds "
          "transformer.prefix_encoder")
      ->required();
  verb->add_option("--tasks", options->tasks, "JSON array of task names, in the order of the task ids 1, 2, …");
  verb->add_flag("--per-linear", options->per_linear,
                 "use the gates of the single layers of a MOELoRA-peft checkpoint");
  verb->add_option("--output", options->output, "new adapter folder")->required();
  verb->footer(
      "Example:\n"
      "  moelora import --adapter tests/fixtures/moelora-tiny --tasks names.json --output out/imported");
  verb->callback([options, &status] {
    run_import(*options);
    status = 0;
  });
}

}  // namespace moelora::cli
