#pragma once
// A safetensors file as bytes by name, for tests of the program that don't link LibTorch.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moelora::testing {

struct StoredBytes {
  std::string dtype = "F32";
  std::vector<std::int64_t> shape;
  std::string bytes;
};
using StoredFile = std::map<std::string, StoredBytes>;

inline StoredFile read_stored(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(stream), {}};
  std::uint64_t length = 0;
  std::memcpy(&length, all.data(), sizeof length);
  StoredFile file;
  const auto header = nlohmann::ordered_json::parse(all.substr(8, length));
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      const auto range = entry["data_offsets"].get<std::vector<std::size_t>>();
      file[name] = {entry["dtype"], entry["shape"], all.substr(8 + length + range[0], range[1] - range[0])};
    }
  }
  return file;
}

inline void write_stored(const std::filesystem::path& path, const StoredFile& file) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::string data;
  for (const auto& [name, stored] : file) {
    header[name] = {{"dtype", stored.dtype},
                    {"shape", stored.shape},
                    {"data_offsets", {data.size(), data.size() + stored.bytes.size()}}};
    data += stored.bytes;
  }
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(&length), sizeof length);
  stream << text << data;
}

}  // namespace moelora::testing
