#pragma once
// Archives as torch.save writes them, made by hand, so that tests can make hostile ones too.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace moelora::io {

inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) {
    text += static_cast<char>(value >> (8 * i) & 0xff);
  }
  return text;
}

/// A zip archive of stored members. `method` other than 0 only marks them as compressed.
inline std::string zip_archive(const std::vector<std::pair<std::string, std::string>>& members, int method = 0) {
  std::string bytes;
  std::string directory;
  for (const auto& [name, data] : members) {
    const std::string common = little_endian(static_cast<std::uint64_t>(method), 2) + little_endian(0, 4) +
                               little_endian(0, 4) + little_endian(data.size(), 4) + little_endian(data.size(), 4) +
                               little_endian(name.size(), 2) + little_endian(0, 2);
    directory += "PK\x01\x02" + little_endian(20, 2) + little_endian(20, 2) + little_endian(0, 2) + common +
                 little_endian(0, 2) + little_endian(0, 2) + little_endian(0, 2) + little_endian(0, 4) +
                 little_endian(bytes.size(), 4) + name;
    bytes += "PK\x03\x04" + little_endian(20, 2) + little_endian(0, 2) + common + name + data;
  }
  return bytes + directory + "PK\x05\x06" + little_endian(0, 4) + little_endian(members.size(), 2) +
         little_endian(members.size(), 2) + little_endian(directory.size(), 4) + little_endian(bytes.size(), 4) +
         little_endian(0, 2);
}

// Pieces of pickles, protocol 2.
inline std::string p_text(const std::string& text) { return "X" + little_endian(text.size(), 4) + text; }
inline std::string p_int(std::int64_t value) {
  return "\x8a\x08" + little_endian(static_cast<std::uint64_t>(value), 8);
}
inline std::string p_global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string p_tuple(const std::vector<std::string>& items) {
  std::string text = "(";
  for (const std::string& item : items) {
    text += item;
  }
  return text + "t";
}
inline std::string p_ints(const std::vector<std::int64_t>& values) {
  std::vector<std::string> items;
  for (const std::int64_t value : values) {
    items.push_back(p_int(value));
  }
  return p_tuple(items);
}
inline std::string p_ordered_dict() { return p_global("collections", "OrderedDict") + ")R"; }
inline std::string p_storage(const std::string& type, const std::string& key, std::int64_t count) {
  return p_tuple({p_text("storage"), p_global("torch", type), p_text(key), p_text("cpu"), p_int(count)}) + "Q";
}
inline std::string p_tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                            const std::vector<std::int64_t>& strides) {
  return p_global("torch._utils", "_rebuild_tensor_v2") +
         p_tuple({storage, p_int(offset), p_ints(shape), p_ints(strides), "\x89", p_ordered_dict()}) + "R";
}
inline std::string p_state_dict(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string text = "\x80\x02" + p_ordered_dict() + "(";
  for (const auto& [name, value] : entries) {
    text += p_text(name) + value;
  }
  return text + "u.";
}

/// A checkpoint with this pickle and the storages "0", "1", ….
inline std::string checkpoint_bytes(const std::string& pickle, const std::vector<std::string>& storages = {}) {
  std::vector<std::pair<std::string, std::string>> members{{"archive/data.pkl", pickle},
                                                           {"archive/byteorder", "little"}};
  for (std::size_t i = 0; i < storages.size(); ++i) {
    members.emplace_back("archive/data/" + std::to_string(i), storages[i]);
  }
  return zip_archive(members);
}

}  // namespace moelora::io
