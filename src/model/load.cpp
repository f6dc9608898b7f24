// Model folders of any family: reading, and new models.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <cstdio>
#include <deque>
#include <future>
#include <nlohmann/json.hpp>

#include "model/foreign_weights.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/memory.h"
#include "moelora/io/saved_names.h"
#include "moelora/log/log.h"
#include "moelora/model/registry.h"
#include "moelora/nn/device.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;

// Before anything is made for each layer that a config.json claims.
void check_layers(const io::TensorFolder& weights, const ModelConfig& config) {
  MOELORA_CHECK(static_cast<std::uint64_t>(config.num_layers()) <= weights.names().size(),
                (weights.folder() / "config.json").string(), " has num_layers ", config.num_layers(),
                ", but the folder's weights are only ", weights.names().size(),
                " tensors, fewer than one for each layer; copy the config.json that belongs to the weights");
}

/// Leaves the names that the graph has.
void drop_wrapper(io::TensorFolder& weights, const ExpectedTensors& expected) {
  while (!weights.contains(expected.tensors.front().first) && weights.drop_prefix("model.")) {  // Lightning's attribute
  }
}

at::ScalarType stored_dtype_of(const io::TensorFolder& weights, const ExpectedTensors& expected) {
  const std::string& first = expected.tensors.front().first;
  return weights.info(weights.contains(first) ? first : weights.names().front()).dtype;
}

bool head_is_tied(const io::TensorFolder& weights, const std::optional<TiedHead>& names) {
  return names && (!weights.contains(names->head) || weights.same_bytes(names->head, names->embedding));
}

/// Where the folder holds its weights in several forms: which one was read, and whether the others hold the same.
void compare_forms_of(const io::TensorFolder& weights, const ExpectedTensors& expected) {
  for (const std::string& form : io::TensorFolder::forms(weights.folder())) {
    if (form == weights.form()) {
      continue;
    }
    const std::string which =
        detail::concat("read ", weights.form(), " of ", weights.folder().string(), "; ", form, " beside it ");
    try {
      const io::TensorFolder other(weights.folder(), form);
      const std::string head = expected.tied_head ? expected.tied_head->head : std::string();
      std::vector<std::string> names;
      for (const auto& [name, shape] : expected.tensors) {
        // A head that is the embedding may be left out.
        if (name != head || (weights.contains(head) && other.contains(head))) {
          names.push_back(name);
        }
      }
      std::vector<std::string> differing = io::differing_tensors(weights, other, names);
      for (const auto& [with, without] : {std::pair{&weights, &other}, std::pair{&other, &weights}}) {
        if (!head.empty() && with->contains(head) && !without->contains(head) &&
            !with->same_bytes(head, expected.tied_head->embedding)) {
          differing.push_back(head);
        }
      }
      if (differing.empty()) {
        log::info(which + "holds the same weights");
      } else {
        log::warning(detail::concat(which, "was not read and holds other weights: ", differing.size(),
                                    " tensors differ; remove the files that are not meant",
                                    io::lines_of("differs", differing)));
      }
    } catch (const Error& error) {
      log::warning(which + "was not read, and can't be: " + error.what());
    }
  }
}

/// The stored type on a GPU, fp32 on a CPU, unless only the stored type fits into its memory.
at::ScalarType automatic_dtype(const ExpectedTensors& expected, at::ScalarType stored, at::Device device) {
  if (!device.is_cpu()) {
    return stored;
  }
  const auto available = io::available_memory();
  const double as_fp32 = 4.0 * static_cast<double>(expected.parameter_count(/*tied=*/true));
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

/// A graph of tensors that come one at a time.
std::shared_ptr<CausalLM> make_from(TensorSource source, const io::TensorFolder& weights, const ModelConfig& config,
                                    const ExpectedTensors& expected) {
  if (head_is_tied(weights, expected.tied_head)) {  // the published checkpoint holds the same tensor twice
    source = with_tied_head(std::move(source), *expected.tied_head);
  }
  return config.make(source);
}

/// In the wanted form at once: beside the model itself there is never more than a block of a file.
std::shared_ptr<CausalLM> make_on_host(const io::TensorFolder& weights, const ModelConfig& config,
                                       const ExpectedTensors& expected, at::ScalarType dtype) {
  return make_from([&](const std::string& name, at::IntArrayRef) { return weights.tensor(name, dtype); }, weights,
                   config, expected);
}

/// Hashes tensors in threads of its own while the next ones are read.
class DigestsOnTheWay {
 public:
  void add(const std::string& name, const at::Tensor& tensor) {
    if (running_.size() >= static_cast<std::size_t>(at::get_num_threads())) {  // bounds what memory holds
      finish_first();
    }
    running_.push_back(std::async(std::launch::async, [name, tensor] { return io::tensor_digest(name, tensor); }));
  }
  std::string fingerprint(const std::optional<TiedHead>& tied) {
    while (!running_.empty()) {
      finish_first();
    }
    for (const io::TensorDigest& one : digests_) {
      if (tied && one.name == tied->embedding) {
        digests_.push_back({tied->head, one.shape, one.digest});
        break;
      }
    }
    return io::fingerprint_of(std::move(digests_));
  }

 private:
  void finish_first() {
    digests_.push_back(running_.front().get());
    running_.pop_front();
  }
  std::deque<std::future<io::TensorDigest>> running_;
  std::vector<io::TensorDigest> digests_;
};

/// On a device: each tensor crosses once, and is hashed as it was read.
std::shared_ptr<CausalLM> make_on_device(const io::TensorFolder& weights, const ModelConfig& config,
                                         const ExpectedTensors& expected, at::ScalarType stored, at::ScalarType dtype,
                                         at::Device device, std::string* fingerprint) {
  DigestsOnTheWay digests;
  auto model = make_from(
      [&](const std::string& name, at::IntArrayRef) {
        const at::Tensor read = weights.tensor(name, fingerprint != nullptr && dtype != at::kFloat ? stored : dtype);
        if (fingerprint != nullptr) {
          digests.add(name, read);
        }
        return read.to(device).to(dtype);
      },
      weights, config, expected);
  if (fingerprint != nullptr) {
    *fingerprint = digests.fingerprint(head_is_tied(weights, expected.tied_head) ? expected.tied_head : std::nullopt);
  }
  return model;
}

void warn_of_foreign_tokenizer(const LoadedModel& loaded) {
  const std::int64_t rows = loaded.model->shape().vocab_size;
  if (loaded.tokenizer && loaded.tokenizer->vocab_size() > rows) {
    log::warning(detail::concat(loaded.folder.string(), ": the tokenizer has ", loaded.tokenizer->vocab_size(),
                                " tokens, the model's embedding ", rows,
                                " rows; a text with one of the others cannot be computed. Are both of one model?"));
  }
}

}  // namespace

at::Device automatic_device() {
  if (nn::cuda_device_count() == 0) {
    return at::kCPU;
  }
  const std::string problem = nn::device_problem(at::kCUDA);
  if (!problem.empty()) {
    log::warning("computing on the CPU: " + problem);
  }
  return problem.empty() ? at::kCUDA : at::kCPU;
}

LoadedModel load(const fs::path& folder, const LoadOptions& options) {
  MOELORA_CHECK(fs::is_directory(folder), "no model folder at ", folder.string(),
                "; expected a folder with config.json, the weights and the tokenizer's files");
  FamilyConfig known = read_config_of(folder);
  LoadedModel loaded;
  loaded.family = std::move(known.family);
  loaded.config = std::move(known.config);
  loaded.folder = folder;
  if (options.tokenizer) {
    loaded.tokenizer = loaded.family->load_tokenizer(folder, template_settings(*loaded.family, options.chat_template));
  }
  const ExpectedTensors expected = loaded.config->expected_tensors();
  io::TensorFolder weights(folder);
  drop_wrapper(weights, expected);
  loaded.stored_dtype = stored_dtype_of(weights, expected);
  const at::ScalarType dtype =
      options.dtype ? *options.dtype : automatic_dtype(expected, loaded.stored_dtype, options.device);
  check_is_base(weights, *loaded.family);
  check_layers(weights, *loaded.config);
  const std::string problems = tensor_problems(weights, expected);
  MOELORA_CHECK(problems.empty(), folder.string(),
                " does not hold the weights that its config.json describes:", problems);
  compare_forms_of(weights, expected);
  if (!options.device.is_cpu()) {
    loaded.model = make_on_device(weights, *loaded.config, expected, loaded.stored_dtype, dtype, options.device,
                                  options.fingerprint ? &loaded.base_fingerprint : nullptr);
    warn_of_foreign_tokenizer(loaded);
    return loaded;
  }
  // A fingerprint is over the stored values: rounding comes after it.
  const bool rounded_later = options.fingerprint && dtype != at::kFloat;
  loaded.model = make_on_host(weights, *loaded.config, expected, rounded_later ? loaded.stored_dtype : dtype);
  warn_of_foreign_tokenizer(loaded);
  if (options.fingerprint) {
    loaded.base_fingerprint = base_fingerprint(*loaded.model);
  }
  if (rounded_later && dtype != loaded.stored_dtype) {
    loaded.model->to(dtype);
  }
  return loaded;
}

LoadedModel create(const nlohmann::ordered_json& config, const fs::path& tokenizer, std::uint64_t seed,
                   at::ScalarType dtype, at::Device device, const std::string& chat_template) {
  FamilyConfig known = read_config(config);
  LoadedModel created;
  created.family = std::move(known.family);
  created.config = std::move(known.config);
  created.folder = fs::is_directory(tokenizer) ? tokenizer : tokenizer.parent_path();
  created.tokenizer = created.family->load_tokenizer(tokenizer, template_settings(*created.family, chat_template));
  created.stored_dtype = created.config->declared_dtype();
  const ExpectedTensors expected = created.config->expected_tensors();
  io::check_memory(
      static_cast<double>(expected.parameter_count(/*tied=*/true)) * static_cast<double>(c10::elementSize(dtype)),
      "the new model (model.init)", "choose a smaller vocab_size, hidden_size or num_layers");
  TensorSource source = random_tensors(seed, dtype);
  if (expected.tied_head) {
    source = with_tied_head(std::move(source), *expected.tied_head);  // as published models are
  }
  created.model = created.config->make(source);
  created.base_fingerprint = base_fingerprint(*created.model);
  created.model->to(device);
  return created;
}

at::ScalarType stored_dtype(const fs::path& folder) {
  const ExpectedTensors expected = read_config_of(folder).config->expected_tensors();
  io::TensorFolder weights(folder);
  drop_wrapper(weights, expected);
  return stored_dtype_of(weights, expected);
}

}  // namespace moelora::model
