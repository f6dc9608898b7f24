#include "moelora/model/chatglm/load.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/json_file.h"
#include "moelora/io/saved_names.h"
#include "moelora/io/tensor_folder.h"
#include "moelora/log/log.h"
#include "moelora/model/chatglm/other_families.h"
#include "moelora/model/folder_files.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;

constexpr char kEmbedding[] = "transformer.word_embeddings.weight";
constexpr char kHead[] = "lm_head.weight";

bool is_float(at::ScalarType dtype) { return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16; }

// Before anything is made for each layer that a config.json claims.
void check_layers(const io::TensorFolder& weights, const ChatGlmConfig& config, const fs::path& config_file) {
  MOELORA_CHECK(static_cast<std::uint64_t>(config.num_layers) <= weights.names().size(), config_file.string(),
                " has num_layers ", config.num_layers, ", but the folder's weights are only ", weights.names().size(),
                " tensors, fewer than one for each layer; copy the config.json that belongs to the weights");
}

std::string shape_text(at::IntArrayRef shape) { return detail::concat(shape); }

bool is_of_prefix(const std::string& name) {
  return name.starts_with("prefix_encoder.") || name.find(".prefix_encoder.") != name.npos;
}

bool is_of_lora(const std::string& name) {
  return name.find(".lora_") != name.npos || name.find(".base_layer.") != name.npos;
}

std::vector<std::string> names_that(const io::TensorFolder& weights, bool (*holds)(const std::string&)) {
  std::vector<std::string> names;
  std::copy_if(weights.names().begin(), weights.names().end(), std::back_inserter(names), holds);
  return names;
}

/// A folder that holds something else than a base model of this family is an Error that says what it is.
void check_is_base(const io::TensorFolder& weights) {
  const std::string folder = weights.folder().string();
  const std::vector<std::string> prefix = names_that(weights, is_of_prefix);
  MOELORA_CHECK(prefix.size() < weights.names().size(), folder, " holds a P-Tuning v2 prefix alone (",
                io::in_a_row(prefix), "), not a model; `moelora import --adapter ", folder,
                " --output ADAPTER` makes an adapter of it, which goes with the base that it was trained on");
  const std::string family = other_family_of_names(weights.names());
  MOELORA_CHECK(family.empty(), folder, " holds the weights of ", family, " (", weights.names().front(),
                ", …), whose graph is another one; expected ChatGLM-6B's (the first generation)");
  const std::vector<std::string> lora = names_that(weights, is_of_lora);
  MOELORA_CHECK(lora.empty(), folder, " holds ", lora.size(), " tensors of a LoRA that is not merged (",
                io::in_a_row(lora, 2), "); save the adapter alone (save_pretrained of PEFT's model) and import it, or ",
                "merge it into the base (merge_and_unload) before saving");
}

/// What the tensors of a folder must be, against what they are: one line for each that is missing, unexpected,
/// misshapen or of a type that can't be computed with, the first of each kind.
std::string problems_of(const io::TensorFolder& weights, const ChatGlmConfig& config) {
  std::vector<std::string> missing;
  std::vector<std::string> missing_names;
  std::vector<std::string> unexpected;
  std::vector<std::string> misfits;
  std::map<std::string, std::vector<std::int64_t>> expected;
  for (auto& [name, shape] : expected_tensors(config)) {
    if (!weights.contains(name) && name != kHead) {
      missing.push_back(name + " " + shape_text(shape));
      missing_names.push_back(name);
    }
    expected.emplace(name, shape);
  }
  std::vector<std::string> prefix;
  for (const std::string& name : weights.names()) {
    const auto wanted = expected.find(name);
    const io::TensorInfo& found = weights.info(name);
    if (wanted == expected.end()) {
      if (is_of_prefix(name)) {
        prefix.push_back(name);
      } else if (!name.ends_with("rotary_emb.inv_freq")) {  // the reference ignores these on load
        unexpected.push_back(name);
      }
    } else if (found.shape != wanted->second) {
      misfits.push_back("shape of " + name + ": expected " + shape_text(wanted->second) + ", found " +
                        shape_text(found.shape));
    } else if (!is_float(found.dtype)) {
      misfits.push_back("type of " + name + ": expected float32, float16 or bfloat16, found " +
                        io::dtype_name(found.dtype));
    }
  }
  std::string text = io::lines_of("missing", missing) + io::lines_of("unexpected", unexpected);
  if (!missing.empty() && !unexpected.empty()) {
    text += "\nnearest names:" + io::expected_beside_found(missing_names, unexpected);
  }
  text += io::lines_of("differs", misfits);
  if (!prefix.empty()) {
    // Not dropped in silence: whoever trained them would get other answers than before.
    text += "\n  left over from P-Tuning v2: " + io::in_a_row(prefix) + "; remove these tensors from " +
            weights.form() + ", or take the base's own file; `moelora import --adapter " + weights.folder().string() +
            " --output ADAPTER` makes an adapter of them";
  }
  return text;
}

/// Where the folder holds its weights in several forms: which one was read, and whether the others hold the same.
void compare_forms_of(const io::TensorFolder& weights, const ChatGlmConfig& config) {
  for (const std::string& form : io::TensorFolder::forms(weights.folder())) {
    if (form == weights.form()) {
      continue;
    }
    const std::string which =
        detail::concat("read ", weights.form(), " of ", weights.folder().string(), "; ", form, " beside it ");
    try {
      const io::TensorFolder other(weights.folder(), form);
      std::vector<std::string> names;
      for (const auto& [name, shape] : expected_tensors(config)) {
        // A head that is the embedding may be left out.
        if (name != kHead || (weights.contains(kHead) && other.contains(kHead))) {
          names.push_back(name);
        }
      }
      std::vector<std::string> differing = io::differing_tensors(weights, other, names);
      for (const auto& [with, without] : {std::pair{&weights, &other}, std::pair{&other, &weights}}) {
        if (with->contains(kHead) && !without->contains(kHead) && !with->same_bytes(kHead, kEmbedding)) {
          differing.emplace_back(kHead);
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

ChatGlmConfig read_chatglm_config(const fs::path& folder) {
  const fs::path config_file = folder / "config.json";
  MOELORA_CHECK(fs::exists(config_file), folder.string(), " holds no config.json, so it is no model folder");
  const nlohmann::ordered_json json = io::read_json_file(config_file);
  try {
    return ChatGlmConfig::from_json(json);
  } catch (const Error& error) {
    if (json.is_object() && json.contains("pre_seq_len") && !io::TensorFolder::forms(folder).empty()) {
      check_is_base(io::TensorFolder(folder));  // says more, if the folder is a prefix alone
    }
    throw Error(config_file.string() + ": " + error.what());
  }
}

ChatGlm load_chatglm(const fs::path& folder, const LoadOptions& options) {
  MOELORA_CHECK(fs::is_directory(folder), "no model folder at ", folder.string(),
                "; expected a folder with config.json, the weights and ice_text.model");
  ChatGlmConfig config = read_chatglm_config(folder);
  io::TensorFolder weights(folder);
  while (!weights.contains(kEmbedding) && weights.drop_prefix("model.")) {  // Lightning's attribute
  }
  check_is_base(weights);
  check_layers(weights, config, folder / "config.json");
  const std::string problems = problems_of(weights, config);
  MOELORA_CHECK(problems.empty(), folder.string(),
                " does not hold the weights that its config.json describes:", problems);
  compare_forms_of(weights, config);
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
