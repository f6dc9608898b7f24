#pragma once
// Zip archives whose members are stored, not compressed: what torch.save writes. Members are ranges of the mapped file.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"

namespace moelora::io {

class StoredZip {
 public:
  /// Error if the directory is missing or damaged, or a member is compressed, encrypted, doubled, out of
  /// bounds or overlaps another.
  explicit StoredZip(std::shared_ptr<const MappedFile> file);

  /// The bytes of each member by its full name.
  const std::map<std::string, std::string_view>& members() const { return members_; }

 private:
  std::uint64_t number(std::uint64_t offset, int bytes) const;
  void read_directory(std::uint64_t offset, std::uint64_t size, std::uint64_t count);
  struct Extent {
    std::uint64_t begin;
    std::uint64_t end;
    std::string_view name;
  };
  /// The offset of the next directory entry.
  std::uint64_t read_member(std::uint64_t offset, std::uint64_t end, std::vector<Extent>& extents);

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, std::string_view> members_;
};

}  // namespace moelora::io
