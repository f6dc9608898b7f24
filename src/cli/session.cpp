#include "cli/session.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceType.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/numbers.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/folder_lock.h"
#include "moelora/io/memory.h"
#include "moelora/io/tensor_folder.h"
#include "moelora/log/log.h"
#include "moelora/model/folder_files.h"

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
  verb.add_option("--model", options.model, "model folder (config.json, weights, ice_text.model)")->required();
  auto* adapter = verb.add_option("--adapter", options.adapter, "adapter folder (adapter.json, adapter.safetensors)");
  if (adapter_required) {
    adapter->required();
  }
  add_compute_options(verb, options);
}

at::Device parse_device(const std::string& text) {
  if (text == "auto") {
    return at::Device(at::hasCUDA() ? at::kCUDA : at::kCPU);
  }
  MOELORA_CHECK(text == "cpu" || text == "cuda" || text.starts_with("cuda:"),
                "--device: expected cpu, cuda, cuda:N or ", "auto, found '", text, "'");
  const at::Device device(text);
  MOELORA_CHECK(!device.is_cuda() || at::hasCUDA(), "--device ", text,
                ": this program sees no GPU (is it built with the preset cuda?)");
  return device;
}

at::ScalarType parse_dtype(const std::string& text) {
  if (text == "float32" || text == "fp32") return at::kFloat;
  if (text == "float16" || text == "fp16") return at::kHalf;
  if (text == "bfloat16" || text == "bf16") return at::kBFloat16;
  throw Error("--dtype: expected float32, float16 or bfloat16, found '" + text + "'");
}

at::ScalarType stored_dtype(const std::filesystem::path& model_folder) {
  const io::TensorFolder tensors(model_folder);
  // Part of every ChatGLM checkpoint; another model's folder is refused when it is loaded.
  const std::string probe = "transformer.word_embeddings.weight";
  return tensors.info(tensors.contains(probe) ? probe : tensors.names().front()).dtype;
}

// "auto": the stored type on a GPU, fp32 on a CPU, unless only the stored type fits into its memory.
at::ScalarType automatic_dtype(const std::filesystem::path& model_folder, at::ScalarType stored, at::Device device) {
  if (!device.is_cpu()) {
    return stored;
  }
  const auto available = io::available_memory();
  const auto config = model::read_chatglm_config(model_folder);
  const double as_fp32 = 4.0 * static_cast<double>(config.parameter_count(/*tied_head=*/true));
  if (stored == at::kFloat || !available || as_fp32 < *available) {
    return at::kFloat;
  }
  char sizes[96];
  std::snprintf(sizes, sizeof sizes, "%.1f GB as float32, %.1f GB of memory are available", as_fp32 / 1e9,
                *available / 1e9);
  log::warning(detail::concat("the model takes ", sizes, ": computing in ", io::dtype_name(stored),
                              ", as it is stored; a dtype given explicitly is taken as it is"));
  return stored;
}

Session open_session(const SessionOptions& options) {
  if (options.threads > 0) {
    at::set_num_threads(options.threads);
  }
  MOELORA_CHECK(std::filesystem::is_directory(options.model), options.model.string(), ": no such model folder");
  MOELORA_CHECK(options.adapter.empty() || std::filesystem::is_directory(options.adapter), options.adapter.string(),
                ": no such adapter folder");
  MOELORA_CHECK(options.adapter.empty() || is_adapter_folder(options.adapter), options.adapter.string(),
                ": no adapter.json; an adapter of another program is read by `moelora import`");
  const at::ScalarType stored = stored_dtype(options.model);
  model::LoadOptions load;
  load.device = parse_device(options.device);
  const at::ScalarType wanted = options.dtype == kStoredDtype ? stored
                                : options.dtype != "auto"     ? parse_dtype(options.dtype)
                                                              : automatic_dtype(options.model, stored, load.device);
  const bool hashed = !options.adapter.empty() || options.fingerprint;
  // A fingerprint is over the stored values: rounding comes after it.
  load.dtype = wanted == at::kFloat || !hashed ? wanted : stored;
  Session session;
  session.tokenizer = std::make_unique<model::ChatGlmTokenizer>(options.model);
  session.model = model::load_chatglm(options.model, load);
  if (hashed) {
    session.base_fingerprint = model::base_fingerprint(*session.model);
  }
  if (*load.dtype != wanted) {
    session.model->to(wanted);
  }
  session.model->eval();
  freeze(*session.model);
  if (!options.adapter.empty()) {
    session.adapter =
        load_adapter(*session.model, options.adapter, session.base_fingerprint, session.tokenizer->fingerprint());
    session.adapter->eval();
  }
  return session;
}

model::ContextMaker Session::context_maker(std::vector<std::int64_t> tasks) const {
  const at::Device device = model->device();
  if (!adapter || is_merged(adapter)) {
    return [device](const nn::Segments& segments, const std::vector<std::int64_t>&) {
      return nn::RowContext::plain(segments, device);
    };
  }
  return [adapter = adapter, tasks = std::move(tasks)](const nn::Segments& segments,
                                                       const std::vector<std::int64_t>& sequences) {
    std::vector<std::int64_t> chosen;
    chosen.reserve(sequences.size());
    for (const std::int64_t sequence : sequences) {
      chosen.push_back(tasks.at(sequence));
    }
    return adapter->context(segments, single_tasks(chosen));
  };
}

std::vector<std::int64_t> Session::tasks_of(const std::vector<data::Record>& records) const {
  std::vector<std::int64_t> tasks;
  tasks.reserve(records.size());
  for (const data::Record& record : records) {
    tasks.push_back(adapter ? adapter->tasks().index(record.task) : 0);
  }
  return tasks;
}

Session open_model(const train::ModelSection& section) {
  SessionOptions options;
  options.device = section.device;
  options.dtype = section.dtype;
  if (section.init.is_null()) {
    options.model = section.path;
    options.fingerprint = true;
    Session session = open_session(options);
    if (!section.tokenizer.empty()) {
      session.tokenizer = std::make_unique<model::ChatGlmTokenizer>(section.tokenizer);
    }
    return session;
  }
  Session session;
  session.tokenizer = std::make_unique<model::ChatGlmTokenizer>(section.tokenizer);
  const at::ScalarType dtype = section.dtype == "auto" ? at::kFloat : parse_dtype(section.dtype);
  const auto config = model::ChatGlmConfig::from_json(section.init);
  io::check_memory(
      static_cast<double>(config.parameter_count(/*tied_head=*/true)) * static_cast<double>(c10::elementSize(dtype)),
      "the new model (model.init)", "choose a smaller vocab_size, hidden_size or num_layers");
  session.model = model::ChatGlm(config, model::random_tensors(section.seed, dtype));
  session.model->tie_head();  // as the published model
  session.model->to(parse_device(section.device));
  session.base_fingerprint = model::base_fingerprint(*session.model);
  return session;
}

void save_model(const model::ChatGlm& model, const std::filesystem::path& folder, const train::ModelSection& section) {
  const std::filesystem::path source = section.path.empty() ? section.tokenizer : section.path;
  const at::ScalarType stored = parse_dtype(model->config().torch_dtype);
  if (stored == model->dtype()) {
    model::save_chatglm(*model, folder, source);
  } else {
    std::map<std::string, at::Tensor> tensors;
    for (const auto& [name, tensor] : model::base_tensors(*model)) {
      tensors[name] = tensor;
    }
    model::ChatGlm copy(model->config(), [&](const std::string& name, at::IntArrayRef) {
      return tensors.at(name).detach().to(at::kCPU, stored);
    });
    if (model->head_is_tied()) {
      copy->tie_head();
    }
    model::save_chatglm(*copy, folder, source);
  }
  if (!section.path.empty()) {
    model::warn_of_missing_files(section.path);
    if (!section.tokenizer.empty()) {
      model::copy_folder_files(section.tokenizer, folder);
    }
  }
}

void require_empty(const std::filesystem::path& folder) {
  MOELORA_CHECK(io::is_empty_folder(folder), folder.string(),
                ": exists and is not an empty folder; choose another --output");
}

}  // namespace moelora::cli
