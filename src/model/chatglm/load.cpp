#include "moelora/model/chatglm/load.h"

#include <ATen/ATen.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/json_file.h"
#include "moelora/io/tensor_folder.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;

const char* const kTokenizerFiles[] = {"ice_text.model", "tokenizer_config.json"};

bool is_float(at::ScalarType dtype) { return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16; }

std::string shape_text(at::IntArrayRef shape) { return detail::concat(shape); }

// Bytes of both tensors agree, whatever their dtype's idea of equality (NaN) is.
bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
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

  std::vector<std::string> problems;
  std::map<std::string, std::vector<std::int64_t>> expected;
  for (auto& [name, shape] : expected_tensors(config)) {
    if (!weights.contains(name) && name != "lm_head.weight") {
      problems.push_back("missing: " + name + " " + shape_text(shape));
    }
    expected.emplace(name, shape);
  }
  std::map<std::string, at::Tensor> loaded;
  std::set<std::string> dtypes;
  for (const std::string& name : weights.names()) {
    const auto wanted = expected.find(name);
    if (wanted == expected.end()) {
      if (!name.ends_with("rotary_emb.inv_freq")) {  // the reference ignores these on load
        problems.push_back("surplus: " + name);
      }
      continue;
    }
    at::Tensor tensor = weights.tensor(name);
    if (tensor.sizes() != at::IntArrayRef(wanted->second)) {
      problems.push_back("shape of " + name + ": expected " + shape_text(wanted->second) + ", found " +
                         shape_text(tensor.sizes()));
      continue;
    }
    if (!is_float(tensor.scalar_type())) {
      problems.push_back("type of " + name + ": expected float32, float16 or bfloat16, found " +
                         io::dtype_name(tensor.scalar_type()));
      continue;
    }
    dtypes.insert(io::dtype_name(tensor.scalar_type()));
    loaded.emplace(name, std::move(tensor));
  }
  if (!problems.empty()) {
    std::string text = folder.string() + " does not hold the weights that its config.json describes:";
    for (const std::string& problem : problems) {
      text += "\n  " + problem;
    }
    throw Error(text);
  }
  const at::ScalarType stored = loaded.at("transformer.word_embeddings.weight").scalar_type();
  const at::ScalarType dtype = options.dtype.value_or(options.device.is_cpu() ? at::kFloat : stored);
  const bool tied = !loaded.contains("lm_head.weight") ||
                    same_bytes(loaded.at("lm_head.weight"), loaded.at("transformer.word_embeddings.weight"));
  if (tied) {
    loaded["lm_head.weight"] = loaded.at("transformer.word_embeddings.weight");
  }
  config.torch_dtype = dtypes.size() == 1 ? *dtypes.begin() : io::dtype_name(stored);
  ChatGlm model(config, [&](const std::string& name, at::IntArrayRef) {
    // Handed over tensor by tensor, so that the stored and the wanted form never both exist as a whole.
    auto node = loaded.extract(name);
    return node.mapped().to(options.device, dtype);
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

void save_chatglm(const ChatGlmImpl& model, const fs::path& folder, const fs::path& tokenizer_from,
                  std::uint64_t max_shard_bytes) {
  ChatGlmConfig config = model.config();
  config.torch_dtype = io::dtype_name(model.dtype());
  io::NamedTensors tensors = base_tensors(model);
  if (model.head_is_tied()) {
    // One tensor in memory, one in the file: a folder without lm_head.weight is read as tied.
    std::erase_if(tensors, [](const auto& entry) { return entry.first == "lm_head.weight"; });
  }
  io::save_tensor_folder(folder, tensors, max_shard_bytes);
  if (!tokenizer_from.empty()) {
    const fs::path source = fs::is_directory(tokenizer_from) ? tokenizer_from : tokenizer_from.parent_path();
    for (const char* name : kTokenizerFiles) {
      if (fs::exists(source / name) && !fs::equivalent(source, folder)) {
        fs::copy_file(source / name, folder / name, fs::copy_options::overwrite_existing);
      }
    }
  }
  io::write_json_file(folder / "config.json", config.to_json());
}

}  // namespace moelora::model
