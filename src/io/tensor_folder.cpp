#include "moelora/io/tensor_folder.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <variant>

#include "io/torch_checkpoint_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/log/log.h"

namespace moelora::io {
namespace {

namespace fs = std::filesystem;
using Shard = std::variant<SafetensorsFile, TorchCheckpointFile>;

Shard open_shard(const fs::path& path) {
  if (path.extension() == ".safetensors") {
    return Shard(std::in_place_type<SafetensorsFile>, path);
  }
  return Shard(std::in_place_type<TorchCheckpointFile>, path);
}

std::vector<std::string> names_in_shard(const Shard& shard) {
  return std::visit(
      [](const auto& file) {
        std::vector<std::string> names;
        for (const auto& [name, entry] : file.entries()) {
          names.push_back(name);
        }
        return names;
      },
      shard);
}

/// Shard file → names promised by the index.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const nlohmann::ordered_json index = read_json_file(path);
  const std::string label = path.string();
  MOELORA_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(), label,
                ": expected an object with \"weight_map\": {tensor name: file name}");
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [name, file] : index["weight_map"].items()) {
    MOELORA_CHECK(file.is_string(), label, ": expected a file name for \"", name, "\", found ", file.type_name());
    const auto& shard = file.get_ref<const std::string&>();
    const bool plain = !shard.empty() && shard != "." && shard != ".." &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    MOELORA_CHECK(plain, label, ": expected a plain file name for \"", name, "\", found ", file.dump(-1, ' ', true),
                  "; shards lie in the folder of their index");
    shards[shard].push_back(name);
  }
  MOELORA_CHECK(!shards.empty(), label, ": its \"weight_map\" is empty");
  return shards;
}

}  // namespace

struct TensorFolder::Impl {
  fs::path folder;
  std::vector<std::string> names;
  std::vector<Shard> shards;  // mapped, so an open one costs no memory
  std::unordered_map<std::string, std::size_t> shard_of;

  void add_shard(const fs::path& path, const std::vector<std::string>* promised, const std::string& index) {
    MOELORA_CHECK(fs::exists(path), index, " names the file ", path.filename().string(), ", which is missing in ",
                  folder.string(), "; download the whole folder");
    const Shard& shard = shards.emplace_back(open_shard(path));
    std::vector<std::string> present = names_in_shard(shard);
    if (promised != nullptr) {
      std::vector<std::string> wanted = *promised;
      std::sort(wanted.begin(), wanted.end());
      for (const std::string& name : wanted) {
        MOELORA_CHECK(std::binary_search(present.begin(), present.end(), name), path.string(), " lacks the tensor \"",
                      name, "\" that ", index, " promises; the folder mixes two models or the index is outdated");
      }
      if (present.size() > wanted.size()) {
        log::warning(detail::concat(path.string(), " holds ", present.size() - wanted.size(),
                                    " tensors that its index does not name; they are ignored"));
      }
      present = std::move(wanted);
    }
    for (std::string& name : present) {
      shard_of.emplace(name, shards.size() - 1);
      names.push_back(std::move(name));
    }
  }
};

TensorFolder::TensorFolder(const fs::path& folder) : impl_(std::make_unique<Impl>()) {
  MOELORA_CHECK(fs::is_directory(folder), "expected the folder of a model, found ",
                fs::exists(folder) ? "the file " : "nothing at ", folder.string());
  impl_->folder = folder;
  for (const char* name :
       {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"}) {
    const fs::path path = folder / name;
    if (!fs::exists(path)) {
      continue;
    }
    if (path.extension() != ".json") {
      impl_->add_shard(path, nullptr, "");
      return;
    }
    for (const auto& [shard, promised] : read_index(path)) {
      impl_->add_shard(folder / shard, &promised, name);
    }
    return;
  }
  throw Error(detail::concat("no weights in ", folder.string(),
                             ": expected model.safetensors or pytorch_model.bin, or the .index.json of several of "
                             "them; check the path or download the weights"));
}

TensorFolder::~TensorFolder() = default;

const std::vector<std::string>& TensorFolder::names() const { return impl_->names; }
bool TensorFolder::contains(const std::string& name) const { return impl_->shard_of.contains(name); }
const fs::path& TensorFolder::folder() const { return impl_->folder; }

at::Tensor TensorFolder::tensor(const std::string& name) const {
  const auto found = impl_->shard_of.find(name);
  MOELORA_CHECK(found != impl_->shard_of.end(), impl_->folder.string(), " holds no tensor \"", name, "\"");
  return std::visit([&](const auto& file) { return file.tensor(name); }, impl_->shards[found->second]);
}

}  // namespace moelora::io
