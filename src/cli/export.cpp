// moelora export: an adapter in the format of another program.

#include <ATen/ATen.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/export_probe.h"
#include "cli/session.h"
#include "cli/standalone_adapter.h"
#include "cli/verbs.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/gguf_lora.h"
#include "moelora/io/error.h"
#include "moelora/io/file_name.h"
#include "moelora/io/folder_lock.h"
#include "moelora/log/log.h"
#include "moelora/model/registry.h"

namespace moelora::cli {
namespace {

constexpr const char* kProbeFile = "probe.json";
constexpr const char* kPeft = "peft";
constexpr const char* kMoeloraPeft = "moelora-peft";
constexpr const char* kGgufLora = "gguf-lora";

struct ExportOptions {
  SessionOptions session;
  std::filesystem::path output;
  std::string format = kPeft;
  std::string task;
  bool all_tasks = false;
  std::string base_name;
  std::vector<std::int64_t> rank_pad;
  bool probe = false;
};

// What other programs load the adapter's file onto: as given, the model's folder, or what training recorded.
std::string base_of(const ExportOptions& options) {
  if (!options.base_name.empty()) {
    return options.base_name;
  }
  if (!options.session.model.empty()) {
    return std::filesystem::absolute(options.session.model).lexically_normal().string();
  }
  const nlohmann::ordered_json provenance = read_provenance(options.session.adapter);
  const auto base = provenance.find("base");
  if (base != provenance.end() && base->is_string() && !base->get<std::string>().empty()) {
    return base->get<std::string>();
  }
  log::warning(
      "base_model_name_or_path stays empty, for the adapter does not record its base; name it with "
      "--base-name (or --model), so that other programs find it");
  return {};
}

bool changes_nothing(const AdapterImpl& adapter, const std::string& task) {
  at::NoGradGuard no_grad;
  const at::Tensor omega = adapter.expert_weights(single_tasks({adapter.tasks().index(task)}));
  for (const auto& linear : adapter.linears()) {
    if (!linear.delta->low_rank(omega.defined() ? omega.select(1, 0) : omega).update().is_zero()) {
      return false;
    }
  }
  return true;
}

bool is_gguf_file(const std::filesystem::path& path) { return path.extension() == ".gguf"; }

// What can be seen of the options before anything is loaded.
void check_options(const ExportOptions& options) {
  const std::string& format = options.format;
  MOELORA_CHECK(format == kPeft || format == kMoeloraPeft || format == kGgufLora,
                "--format: expected peft, gguf-lora or moelora-peft, found '", format, "'");
  const bool one_task = format != kMoeloraPeft;
  MOELORA_CHECK(one_task || (options.task.empty() && !options.all_tasks),
                "--task and --all-tasks go with --format peft or gguf-lora: moelora-peft keeps all tasks");
  MOELORA_CHECK(options.task.empty() || !options.all_tasks, "give --task TASK or --all-tasks, not both");
  MOELORA_CHECK(one_task || options.rank_pad.empty(),
                "--rank-pad goes with --format peft or gguf-lora: moelora-peft divides the rank among experts");
  for (const std::int64_t rank : options.rank_pad) {
    MOELORA_CHECK(rank >= 1 && rank <= 65536, "--rank-pad: expected ranks of 1 to 65536, found ", rank);
  }
  MOELORA_CHECK(format != kGgufLora || !options.session.model.empty(),
                "--format gguf-lora needs --model: names and the order of rows are those of the base's own GGUF file");
  MOELORA_CHECK(format != kGgufLora || options.base_name.empty(),
                "--base-name goes with the other formats: a GGUF LoRA names its base's architecture");
  MOELORA_CHECK(format != kGgufLora || !options.all_tasks || !is_gguf_file(options.output),
                "--all-tasks writes one file for each task: name a folder by --output, not ",
                options.output.filename().string());
  if (is_gguf_file(options.output) && format == kGgufLora) {
    MOELORA_CHECK(!std::filesystem::exists(options.output), options.output.string(), " is there already; name a new ",
                  "file");
    require_outside_adapters(options.output);
  } else {
    require_empty(options.output);
  }
}

// Where each task goes; all of them into one folder for the format that keeps them together.
std::vector<ExportedFile> planned_files(const ExportOptions& options, const TaskNames& tasks) {
  if (options.format == kMoeloraPeft) {
    return {{options.output, tasks.names(), options.output / kProbeFile}};
  }
  MOELORA_CHECK(options.all_tasks || !options.task.empty() || tasks.size() == 1,
                "--task or --all-tasks is needed: such a file holds one task (`moelora inspect` lists them)");
  std::vector<std::string> names = tasks.names();
  if (!options.all_tasks) {
    names = {options.task.empty() ? tasks.name(0) : options.task};
    tasks.index(names.front());  // an unknown one shows before a folder is made
  }
  std::vector<ExportedFile> files;
  for (const std::string& task : names) {
    ExportedFile file{options.output, {task}, {}};
    if (options.format == kGgufLora) {
      file.path = is_gguf_file(options.output) ? options.output : options.output / (io::file_name_for(task) + ".gguf");
      file.probe = file.path.parent_path() / (file.path.stem().string() + "." + kProbeFile);
    } else {
      file.path = options.all_tasks ? options.output / io::file_name_for(task) : options.output;
      file.probe = file.path / kProbeFile;
    }
    files.push_back(std::move(file));
  }
  return files;
}

io::GgufLayout layout_of(const std::filesystem::path& model) {
  const model::FamilyConfig base = model::read_config_of(model);
  const auto layout = base.config->gguf_layout();
  MOELORA_CHECK(layout, model.string(), ": llama.cpp has no architecture that computes this model of ",
                base.family->title().name, " as it is configured; export to PEFT, or merge the task");
  return *layout;
}

// Writes one file, or folder. Returns what it is.
std::string write_file(const ExportOptions& options, const AdapterImpl& adapter, const ExportedFile& file,
                       const std::optional<io::GgufLayout>& layout, const std::string& base, std::int64_t padded) {
  const std::int64_t rank = adapter.config().rank;
  if (options.format == kMoeloraPeft) {
    export_moelora_peft(adapter, file.path, base);
    std::string text = detail::concat("MOELoRA-peft adapter, task ids 1..", file.tasks.size(), " are");
    for (const std::string& name : file.tasks) {
      text += " " + name;
    }
    return text;
  }
  if (layout) {
    export_gguf_lora(adapter, file.tasks.front(), file.path, *layout, padded);
  } else {
    export_peft(adapter, file.tasks.front(), file.path, base, padded);
  }
  return detail::concat(layout ? "GGUF LoRA adapter (" + layout->architecture + ")" : std::string("PEFT LoRA adapter"),
                        " of task ", file.tasks.front(),
                        padded == rank ? "" : detail::concat(", rank ", rank, " padded to ", padded));
}

void run_export(const ExportOptions& options) {
  check_options(options);
  std::optional<io::GgufLayout> layout;
  if (options.format == kGgufLora) {
    layout = layout_of(options.session.model);
  }
  std::optional<Session> session;
  std::optional<StandaloneAdapter> alone;
  if (options.session.model.empty()) {
    alone = load_standalone_adapter(options.session.adapter);
  } else {
    session = open_session(options.session);
  }
  const Adapter& adapter = session ? session->adapter : alone->adapter;
  const std::vector<ExportedFile> files = planned_files(options, adapter->tasks());
  const std::int64_t rank = adapter->config().rank;
  const std::int64_t padded = options.rank_pad.empty() ? rank : engine_rank(rank, options.rank_pad);
  std::optional<io::FolderLock> lock;
  if (files.front().path != options.output) {
    lock.emplace(options.output, "moelora export");
    require_empty(options.output);  // another process may have filled it in between
  }
  const std::string base = layout ? "" : base_of(options);
  for (const ExportedFile& file : files) {
    const std::string what = write_file(options, *adapter, file, layout, base, padded);
    std::cout << "Wrote " << file.path.string() << ": " << what << std::endl;
    for (const std::string& task : file.tasks) {
      if (changes_nothing(*adapter, task)) {
        log::warning("the update of task " + task + " is zero: loading it changes nothing");
      }
    }
  }
  if (options.probe) {
    ForeignOptions foreign;
    foreign.per_linear = options.format == kMoeloraPeft && adapter->config().gate.per_linear;
    write_probes(*session, options.session.model, files, [&](model::CausalLM& model, const ExportedFile& file) {
      return layout ? load_gguf_lora(model, file.path, *layout, file.tasks.front())
                    : load_foreign_adapter(model, file.path, foreign);
    });
  }
}

}  // namespace

void add_export(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("export", "write an adapter in the format of another program");
  auto options = std::make_shared<ExportOptions>();
  verb->add_option("--adapter", options->session.adapter, "adapter folder")->required();
  verb->add_option("--format", options->format,
                   "peft or gguf-lora (llama.cpp): one task in a file; moelora-peft: all tasks")
      ->capture_default_str();
  verb->add_option("--task", options->task, "task to export, for peft and gguf-lora");
  verb->add_flag("--all-tasks", options->all_tasks, "every task: folders OUTPUT/TASK, or files OUTPUT/TASK.gguf");
  verb->add_option("--output", options->output, "new folder; for one task as gguf-lora also a file NAME.gguf")
      ->required();
  auto* model = verb->add_option("--model", options->session.model, "the base's model folder: checked, and named");
  verb->add_option(
      "--base-name", options->base_name,
      "base_model_name_or_path of the written file (default: --model, or the base that training recorded)");
  verb->add_option("--rank-pad", options->rank_pad,
                   "ranks that an engine takes, e.g. 16 or 8,16,32,64: zeros pad the adapter's to the next of them, "
                   "its update stays exactly the same")
      ->delimiter(',');
  verb->add_flag("--probe", options->probe,
                 "measure how far loading the written file moves the base's logits on fixed prompts, into probe.json")
      ->needs(model);
  add_compute_options(*verb, options->session);
  verb->footer(
      "Examples:\n"
      "  moelora export --adapter out/run/adapter --format peft --task CMeIE --output out/cmeie-peft\n"
      "  moelora export --adapter out/run/adapter --task CMeIE --model MODEL --probe --output out/cmeie-peft\n"
      "  moelora export --adapter ADAPTER --all-tasks --rank-pad 8,16,32,64 --base-name NAME --output out/peft\n"
      "  moelora export --adapter ADAPTER --format gguf-lora --all-tasks --model MODEL --output out/gguf\n"
      "  moelora export --adapter out/run/adapter --format moelora-peft --output out/moelora-peft");
  verb->callback([options, &status] {
    run_export(*options);
    status = 0;
  });
}

}  // namespace moelora::cli
