#include "moelora/model/chatglm/load.h"

#include <ATen/ATen.h>

#include <map>
#include <nlohmann/json.hpp>

#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/json_file.h"
#include "moelora/io/tensor_folder.h"
#include "moelora/model/folder_files.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;

constexpr char kEmbedding[] = "transformer.word_embeddings.weight";
constexpr char kHead[] = "lm_head.weight";

bool is_float(at::ScalarType dtype) { return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16; }

std::string shape_text(at::IntArrayRef shape) { return detail::concat(shape); }

/// What the tensors of a folder must be, against what they are: one line for each that is missing, surplus, misshapen
/// or of a type that can't be computed with.
std::vector<std::string> problems_of(const io::TensorFolder& weights, const ChatGlmConfig& config) {
  std::vector<std::string> problems;
  std::map<std::string, std::vector<std::int64_t>> expected;
  for (auto& [name, shape] : expected_tensors(config)) {
    if (!weights.contains(name) && name != kHead) {
      problems.push_back("missing: " + name + " " + shape_text(shape));
    }
    expected.emplace(name, shape);
  }
  for (const std::string& name : weights.names()) {
    const auto wanted = expected.find(name);
    const io::TensorInfo& found = weights.info(name);
    if (wanted == expected.end()) {
      if (!name.ends_with("rotary_emb.inv_freq")) {  // the reference ignores these on load
        problems.push_back("surplus: " + name);
      }
    } else if (found.shape != wanted->second) {
      problems.push_back("shape of " + name + ": expected " + shape_text(wanted->second) + ", found " +
                         shape_text(found.shape));
    } else if (!is_float(found.dtype)) {
      problems.push_back("type of " + name + ": expected float32, float16 or bfloat16, found " +
                         io::dtype_name(found.dtype));
    }
  }
  return problems;
}

/// config.json of a model that came from `source`: what that file says beyond what this library knows (auto_map above
/// all) stays. Where it describes another model, as beside a tokenizer alone, nothing is taken from it.
nlohmann::ordered_json config_like(const fs::path& source, const ChatGlmConfig& config) {
  nlohmann::ordered_json own = config.to_json();
  if (!fs::is_regular_file(source)) {
    return own;
  }
  nlohmann::ordered_json json = io::read_json_file(source);
  try {
    ChatGlmConfig described = ChatGlmConfig::from_json(json);
    described.torch_dtype = config.torch_dtype;
    if (described.to_json() != own) {
      return own;
    }
  } catch (const Error&) {
    return own;
  }
  json["torch_dtype"] = config.torch_dtype;
  if (json.contains("dtype")) {
    json["dtype"] = config.torch_dtype;  // the key's name in newer files
  }
  return json;
}

}  // namespace

ChatGlm load_chatglm(const fs::path& folder, const LoadOptions& options) {
  MOELORA_CHECK(fs::is_directory(folder), "no model folder at ", folder.string(),
                "; expected a folder with config.json, the weights and ice_text.model");
  const fs::path config_file = folder / "config.json";
  MOELORA_CHECK(fs::exists(config_file), folder.string(), " holds no config.json, so it is no model folder");
  const nlohmann::ordered_json json = io::read_json_file(config_file);
  ChatGlmConfig config;
  try {
    config = ChatGlmConfig::from_json(json);
  } catch (const Error& error) {
    throw Error(config_file.string() + ": " + error.what());
  }
  const io::TensorFolder weights(folder);

  const std::vector<std::string> problems = problems_of(weights, config);
  if (!problems.empty()) {
    std::string text = folder.string() + " does not hold the weights that its config.json describes:";
    for (const std::string& problem : problems) {
      text += "\n  " + problem;
    }
    throw Error(text);
  }
  const at::ScalarType stored = weights.info(kEmbedding).dtype;
  const at::ScalarType dtype = options.dtype.value_or(options.device.is_cpu() ? at::kFloat : stored);
  config.torch_dtype = io::dtype_name(stored);
  // The published checkpoint holds the same tensor twice.
  const bool tied = !weights.contains(kHead) || weights.same_bytes(kHead, kEmbedding);
  at::Tensor embedding;
  ChatGlm model(config, [&](const std::string& name, at::IntArrayRef) {
    if (tied && name == kHead) {
      return embedding;
    }
    // One at a time, in the wanted form at once: beside the model itself there is never more than a block of a file.
    const at::Tensor tensor = weights.tensor(name, dtype).to(options.device);
    if (name == kEmbedding) {
      embedding = tensor;
    }
    return tensor;
  });
  if (tied) {
    model->tie_head();
  }
  return model;
}

io::NamedTensors base_tensors(const ChatGlmImpl& model) {
  io::NamedTensors tensors;
  for (const auto& parameter : model.named_parameters()) {
    tensors.emplace_back(parameter.key(), parameter.value().detach());
  }
  return tensors;
}

std::string base_fingerprint(const ChatGlmImpl& model) { return io::fingerprint(base_tensors(model)); }

void save_chatglm(const ChatGlmImpl& model, const fs::path& folder, const fs::path& files_from,
                  std::uint64_t max_shard_bytes) {
  ChatGlmConfig config = model.config();
  config.torch_dtype = io::dtype_name(model.dtype());
  io::NamedTensors tensors = base_tensors(model);
  if (model.head_is_tied()) {
    // One tensor in memory, one in the file: a folder without lm_head.weight is read as tied.
    std::erase_if(tensors, [](const auto& entry) { return entry.first == "lm_head.weight"; });
  }
  io::save_tensor_folder(folder, tensors, max_shard_bytes);
  nlohmann::ordered_json json = config.to_json();
  if (!files_from.empty()) {
    const fs::path source = fs::is_directory(files_from) ? files_from : files_from.parent_path();
    copy_folder_files(source, folder);
    json = config_like(source / "config.json", config);
  }
  io::write_json_file(folder / "config.json", json);
}

}  // namespace moelora::model
