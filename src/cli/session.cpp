#include "cli/session.h"

#include <ATen/Parallel.h>
#include <c10/core/DeviceType.h>

#include <nlohmann/json.hpp>

#include "cli/numbers.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/folder_lock.h"
#include "moelora/model/folder_files.h"
#include "moelora/nn/device.h"
#include "moelora/train/prompt_form.h"

namespace moelora::cli {

void add_compute_options(CLI::App& verb, SessionOptions& options) {
  verb.add_option("--device", options.device, "cpu, cuda, cuda:N or auto")->capture_default_str();
  verb.add_option("--dtype", options.dtype,
                  "float32, float16, bfloat16, or auto: float32 on a CPU (if it fits), as stored on a GPU")
      ->capture_default_str();
  verb.add_option("--threads", options.threads, "threads of the computation; 0: all cores")
      ->check(whole_number(0, 4096))
      ->capture_default_str();
}

void add_session_options(CLI::App& verb, SessionOptions& options, bool adapter_required) {
  verb.add_option("--model", options.model, "model folder (config.json, weights, tokenizer)")->required();
  auto* adapter = verb.add_option("--adapter", options.adapter, "adapter folder (adapter.json, adapter.safetensors)");
  if (adapter_required) {
    adapter->required();
  }
  add_template_option(verb, options);
  add_compute_options(verb, options);
}

CLI::Option* add_template_option(CLI::App& verb, SessionOptions& options) {
  return verb
      .add_option("--template", options.chat_template,
                  "how prompts are written: model (its chat template), none (texts as they are), or a file with a "
                  "template; as in training (data.template)")
      ->capture_default_str();
}

at::Device parse_device(const std::string& text) {
  if (text == "auto") {
    return model::automatic_device();
  }
  MOELORA_CHECK(text == "cpu" || text == "cuda" || text.starts_with("cuda:"),
                "--device: expected cpu, cuda, cuda:N or ", "auto, found '", text, "'");
  const at::Device device(text);
  const std::string problem = nn::device_problem(device);
  MOELORA_CHECK(problem.empty(), "--device ", text, ": ", problem);
  return device;
}

at::ScalarType parse_dtype(const std::string& text) {
  const auto dtype = io::dtype_of_name(text);
  MOELORA_CHECK(dtype, "--dtype: expected float32, float16 or bfloat16, found '", text, "'");
  return *dtype;
}

Session open_session(const SessionOptions& options) {
  if (options.threads > 0) {
    at::set_num_threads(options.threads);
  }
  MOELORA_CHECK(std::filesystem::is_directory(options.model), options.model.string(), ": no such model folder");
  MOELORA_CHECK(options.adapter.empty() || std::filesystem::is_directory(options.adapter), options.adapter.string(),
                ": no such adapter folder");
  MOELORA_CHECK(options.adapter.empty() || !is_adapter_folder(options.adapter / "adapter"), options.adapter.string(),
                ": this is a run's folder; its adapter is ", (options.adapter / "adapter").string());
  MOELORA_CHECK(options.adapter.empty() || is_adapter_folder(options.adapter), options.adapter.string(),
                ": no adapter.json; an adapter of another program is read by `moelora import`");
  model::LoadOptions load;
  load.device = parse_device(options.device);
  if (options.dtype == kStoredDtype) {
    load.dtype = model::stored_dtype(options.model);
  } else if (options.dtype != "auto") {
    load.dtype = parse_dtype(options.dtype);
  }
  load.chat_template = options.chat_template;
  load.fingerprint = !options.adapter.empty() || options.fingerprint;
  Session session{model::load(options.model, load), Adapter(nullptr), {}, {}};
  session.model->eval();
  freeze(*session.model);
  if (!options.adapter.empty()) {
    session.adapter =
        load_adapter(*session.model, options.adapter, session.base_fingerprint, session.tokenizer->fingerprint());
    session.adapter->eval();
    if (const auto trained = train::PromptForm::of_adapter(options.adapter)) {
      session.source_prefix = trained->source_prefix;
    }
    session.adapter_folder = options.adapter;
  }
  return session;
}

nn::ContextMaker Session::context_maker(const std::vector<std::int64_t>& tasks) const {
  return !adapter || is_merged(adapter) ? nn::ContextMaker() : for_tasks(adapter, single_tasks(tasks));
}

std::vector<std::int64_t> Session::tasks_of(const std::vector<data::Record>& records) const {
  std::vector<std::int64_t> tasks;
  tasks.reserve(records.size());
  for (const data::Record& record : records) {
    tasks.push_back(adapter ? adapter->tasks().index(record.task) : 0);
  }
  return tasks;
}

Session open_model(const train::ModelSection& section, const std::string& chat_template) {
  if (!section.init.is_null()) {
    const at::ScalarType dtype = section.dtype == "auto" ? at::kFloat : parse_dtype(section.dtype);
    return {model::create(section.init, section.tokenizer, section.seed, dtype, parse_device(section.device),
                          chat_template),
            Adapter(nullptr),
            {},
            {}};
  }
  SessionOptions options;
  options.device = section.device;
  options.dtype = section.dtype;
  options.model = section.path;
  options.fingerprint = true;
  options.chat_template = chat_template;
  Session session = open_session(options);
  if (!section.tokenizer.empty()) {
    session.tokenizer =
        session.family->load_tokenizer(section.tokenizer, model::template_settings(*session.family, chat_template));
  }
  return session;
}

void save_model(const Session& session, const std::filesystem::path& folder, const train::ModelSection& section) {
  session.save(folder);
  if (!section.path.empty()) {
    model::warn_of_missing_files(section.path);
    if (!section.tokenizer.empty()) {
      model::copy_folder_files(section.tokenizer, folder);
    }
  }
}

void require_outside_adapters(const std::filesystem::path& output) {
  // With one slash at the end, however it was given.
  const auto parent = (std::filesystem::absolute(output) / "").lexically_normal().parent_path().parent_path();
  // A configuration may be called adapter.json too.
  const bool is_adapter = is_adapter_folder(parent) && std::filesystem::exists(parent / "adapter.safetensors");
  MOELORA_CHECK(!is_adapter, output.string(), ": ", parent.string(),
                " is an adapter's folder, which holds its own files alone; choose another --output");
}

void require_empty(const std::filesystem::path& folder) {
  require_outside_adapters(folder);
  MOELORA_CHECK(io::is_empty_folder(folder), folder.string(),
                ": exists and is not an empty folder; choose another --output");
}

}  // namespace moelora::cli
