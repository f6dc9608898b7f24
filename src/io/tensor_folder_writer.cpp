#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/tensor_folder.h"

namespace moelora::io {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

std::vector<NamedTensors> split_into_shards(const NamedTensors& tensors, std::uint64_t max_bytes) {
  std::vector<NamedTensors> shards(1);
  std::uint64_t held = 0;
  for (const auto& named : tensors) {
    MOELORA_CHECK(named.second.defined(), "cannot write the tensor \"", named.first, "\": it is undefined");
    const std::uint64_t size = named.second.nbytes();
    if (!shards.back().empty() && held + size > max_bytes) {
      shards.emplace_back();
      held = 0;
    }
    shards.back().push_back(named);
    held += size;
  }
  return shards;
}

std::string shard_file_name(std::size_t index, std::size_t count) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

// What save_tensor_folder wrote here before; anything else in the folder is the user's.
std::vector<std::filesystem::path> earlier_weights(const std::filesystem::path& folder) {
  static const std::regex pattern(R"(model(-\d{5,}-of-\d{5,})?\.safetensors(\.index\.json)?)");
  std::vector<std::filesystem::path> found;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent)) {
    if (entry.is_regular_file() && std::regex_match(entry.path().filename().string(), pattern)) {
      found.push_back(entry.path());
    }
  }
  return found;
}

}  // namespace

void save_tensor_folder(const std::filesystem::path& folder, const NamedTensors& tensors,
                        std::uint64_t max_shard_bytes) {
  const std::vector<NamedTensors> shards = split_into_shards(tensors, max_shard_bytes);
  const bool single = shards.size() == 1;
  nlohmann::ordered_json::object_t weight_map;
  std::uint64_t total = 0;
  std::set<std::string> written;
  std::set<std::string> names;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file = single ? kSingleFile : shard_file_name(i, shards.size());
    written.insert(file);
    for (const auto& [name, tensor] : shards[i]) {
      MOELORA_CHECK(names.insert(name).second, "cannot write ", folder.string(), ": the tensor \"", name,
                    "\" is given twice");
      weight_map.emplace_back(name, file);
      total += tensor.nbytes();
    }
  }
  const auto earlier = earlier_weights(folder);
  const bool overwrites_shards = !single && std::any_of(earlier.begin(), earlier.end(), [&](const auto& path) {
    return written.contains(path.filename().string());
  });
  if (overwrites_shards) {
    // Were the program to stop halfway, the old index would name a mixture of old and new shards. Without an index the
    // folder is visibly incomplete instead.
    std::filesystem::remove(folder / kIndexFile);
  }
  std::size_t next = 0;
  for (const NamedTensors& shard : shards) {
    // Python's transformers refuses files without this note.
    save_safetensors(folder / (single ? kSingleFile : shard_file_name(next++, shards.size())), shard,
                     {{"format", "pt"}});
  }
  if (single) {
    std::filesystem::remove(folder / kIndexFile);  // readers prefer an index: from here on the new file counts
  } else {
    nlohmann::ordered_json index;
    index["metadata"]["total_size"] = total;
    index["weight_map"] = std::move(weight_map);
    write_json_file(folder / kIndexFile, index);
    written.insert(kIndexFile);
  }
  for (const auto& path : earlier) {
    if (!written.contains(path.filename().string())) {
      std::error_code ignored;
      std::filesystem::remove(path, ignored);
    }
  }
}

}  // namespace moelora::io
