// Writing model folders of any family.

#include <algorithm>
#include <nlohmann/json.hpp>

#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/model/folder_files.h"
#include "moelora/model/registry.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

/// `own`, the config.json of a model that came from `source`: what that file says beyond what this library knows
/// (auto_map above all) stays. Where it describes another model, as beside a tokenizer alone, nothing is taken from it.
ordered_json config_like(const fs::path& source, const ordered_json& own, at::ScalarType dtype) {
  if (!fs::is_regular_file(source)) {
    return own;
  }
  ordered_json json = io::read_json_file(source);
  try {
    if (read_config(json).config->to_json(dtype) != own) {
      return own;
    }
  } catch (const Error&) {
    return own;
  }
  const bool newer = json.contains("dtype");  // the key's name in newer files
  if (newer) {
    json["dtype"] = io::dtype_name(dtype);
  }
  if (!newer || json.contains("torch_dtype")) {
    json["torch_dtype"] = io::dtype_name(dtype);
  }
  return json;
}

}  // namespace

void save_model(const CausalLM& model, const ModelConfig& config, const fs::path& folder, const SaveOptions& options) {
  const at::ScalarType dtype = options.dtype.value_or(model.dtype());
  io::NamedTensors tensors = base_tensors(model);
  if (const auto tied = config.expected_tensors().tied_head) {
    const std::vector<std::string> again = tied_names(model);
    if (std::find(again.begin(), again.end(), tied->head) != again.end()) {
      // One tensor in memory, one in the file: a folder without the head's weight is read as tied.
      std::erase_if(tensors, [&](const auto& entry) { return entry.first == tied->head; });
    }
  }
  if (dtype != model.dtype()) {
    for (auto& [name, tensor] : tensors) {
      tensor = tensor.to(at::kCPU, dtype);
    }
  }
  io::save_tensor_folder(folder, tensors, options.max_shard_bytes);
  ordered_json json = config.to_json(dtype);
  if (!options.files_from.empty()) {
    const fs::path source =
        fs::is_directory(options.files_from) ? options.files_from : options.files_from.parent_path();
    copy_folder_files(source, folder);
    json = config_like(source / "config.json", json, dtype);
  }
  io::write_json_file(folder / "config.json", json);
}

void LoadedModel::save(const fs::path& to) const {
  SaveOptions options;
  options.files_from = folder;
  options.dtype = stored_dtype;
  save_model(*model, *config, to, options);
}

}  // namespace moelora::model
