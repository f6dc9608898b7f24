// moelora export: an adapter in the format of another program.

#include <iostream>

#include "cli/adapter_alone.h"
#include "cli/session.h"
#include "cli/verbs.h"
#include "moelora/io/error.h"

namespace moelora::cli {
namespace {

struct ExportOptions {
  std::filesystem::path adapter;
  std::filesystem::path output;
  std::string format = "peft";
  std::string task;
};

void run_export(const ExportOptions& options) {
  const bool peft = options.format == "peft";
  MOELORA_CHECK(peft || options.format == "moelora-peft", "--format: expected peft or moelora-peft, found '",
                options.format, "'");
  MOELORA_CHECK(peft || options.task.empty(), "--task goes with --format peft: moelora-peft keeps all tasks");
  require_empty(options.output);
  const AdapterAlone alone = load_adapter_alone(options.adapter);
  const TaskNames& tasks = alone.adapter->tasks();
  if (!peft) {
    export_moelora_peft(*alone.adapter, options.output);
    std::cout << "Wrote " << options.output.string() << ": MOELoRA-peft adapter, task ids 1.." << tasks.size()
              << " are";
    for (const std::string& name : tasks.names()) {
      std::cout << " " << name;
    }
    std::cout << std::endl;
    return;
  }
  MOELORA_CHECK(!options.task.empty() || tasks.size() == 1,
                "--task is needed: a PEFT adapter holds one task (`moelora inspect` lists them)");
  const std::string task = options.task.empty() ? tasks.name(0) : options.task;
  export_peft(*alone.adapter, task, options.output);
  std::cout << "Wrote " << options.output.string() << ": PEFT LoRA adapter of task " << task << std::endl;
}

}  // namespace

void add_export(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("export", "write an adapter in the format of another program");
  auto options = std::make_shared<ExportOptions>();
  verb->add_option("--adapter", options->adapter, "adapter folder")->required();
  verb->add_option("--format", options->format, "peft (one task) or moelora-peft (all tasks)")->capture_default_str();
  verb->add_option("--task", options->task, "task to export, for peft");
  verb->add_option("--output", options->output, "new folder")->required();
  verb->footer(
      "Examples:\n"
      "  moelora export --adapter out/run/adapter --format peft --task CMeIE --output out/cmeie-peft\n"
      "  moelora export --adapter out/run/adapter --format moelora-peft --output out/moelora-peft");
  verb->callback([options, &status] {
    run_export(*options);
    status = 0;
  });
}

}  // namespace moelora::cli
