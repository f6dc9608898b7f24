#include "io/stored_zip.h"

#include <algorithm>
#include <vector>

#include "moelora/io/error.h"

namespace moelora::io {
namespace {

constexpr std::uint64_t kLocalSignature = 0x04034b50;
constexpr std::uint64_t kEntrySignature = 0x02014b50;
constexpr std::uint64_t kEndSignature = 0x06054b50;
constexpr std::uint64_t kEnd64Signature = 0x06064b50;
constexpr std::uint64_t kLocator64Signature = 0x07064b50;
constexpr std::uint64_t kEndSize = 22;
constexpr std::uint64_t kNone = ~std::uint64_t{0};

std::string damaged_archive(const MappedFile& file, const char* what) {
  return detail::concat(file.path().string(), ": the zip archive is cut off or damaged (", what,
                        "); copy or download it again");
}

}  // namespace

std::uint64_t StoredZip::number(std::uint64_t offset, int bytes) const {
  const auto width = static_cast<std::uint64_t>(bytes);
  MOELORA_CHECK(file_->size() >= width && offset <= file_->size() - width,
                damaged_archive(*file_, "a record lies beyond the end"));
  std::uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) {
    value = value << 8 | file_->data()[offset + static_cast<std::uint64_t>(i)];
  }
  return value;
}

StoredZip::StoredZip(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {
  const std::uint64_t size = file_->size();
  // The end record is the last thing but a comment of at most 65535 bytes.
  std::uint64_t end = kNone;
  const std::uint64_t furthest = std::min<std::uint64_t>(size, kEndSize + 65535);
  for (std::uint64_t back = kEndSize; back <= furthest && end == kNone; ++back) {
    const std::uint64_t at = size - back;
    if (number(at, 4) == kEndSignature && number(at + 20, 2) == back - kEndSize) {
      end = at;
    }
  }
  MOELORA_CHECK(end != kNone, damaged_archive(*file_, "it has no end record"));
  std::uint64_t count = number(end + 10, 2);
  std::uint64_t directory_size = number(end + 12, 4);
  std::uint64_t directory = number(end + 16, 4);
  if (end >= 20 && number(end - 20, 4) == kLocator64Signature) {
    const std::uint64_t end64 = number(end - 12, 8);
    MOELORA_CHECK(end64 <= size && number(end64, 4) == kEnd64Signature,
                  damaged_archive(*file_, "its 64-bit end record is not where it should be"));
    count = number(end64 + 32, 8);
    directory_size = number(end64 + 40, 8);
    directory = number(end64 + 48, 8);
  }
  MOELORA_CHECK(directory <= size && directory_size <= size - directory,
                damaged_archive(*file_, "its directory lies beyond the end"));
  read_directory(directory, directory_size, count);
}

void StoredZip::read_directory(std::uint64_t offset, std::uint64_t size, std::uint64_t count) {
  const std::uint64_t end = offset + size;
  std::vector<Extent> extents{{offset, end, "the directory"}};
  for (std::uint64_t i = 0; i < count; ++i) {
    offset = read_member(offset, end, extents);
  }
  // Members that share bytes would make more data than the file holds.
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < extents.size(); ++i) {
    MOELORA_CHECK(extents[i].begin >= extents[i - 1].end, file_->path().string(), ": ", extents[i].name, " overlaps ",
                  extents[i - 1].name, " in the zip archive; it is damaged, copy or download it again");
  }
}

std::uint64_t StoredZip::read_member(std::uint64_t offset, std::uint64_t end, std::vector<Extent>& extents) {
  MOELORA_CHECK(offset < end && number(offset, 4) == kEntrySignature,
                damaged_archive(*file_, "a directory entry is broken"));
  const std::uint64_t flags = number(offset + 8, 2);
  const std::uint64_t method = number(offset + 10, 2);
  std::uint64_t packed = number(offset + 20, 4);
  std::uint64_t size = number(offset + 24, 4);
  const std::uint64_t name_length = number(offset + 28, 2);
  const std::uint64_t extra_length = number(offset + 30, 2);
  const std::uint64_t comment_length = number(offset + 32, 2);
  std::uint64_t header = number(offset + 42, 4);
  const std::uint64_t name_at = offset + 46;
  const std::uint64_t extra_end = name_at + name_length + extra_length;
  const std::uint64_t next = extra_end + comment_length;
  MOELORA_CHECK(next <= end, damaged_archive(*file_, "a directory entry is broken"));
  std::string name(reinterpret_cast<const char*>(file_->data()) + name_at, name_length);
  // Extra field 1 holds, in this order, the 64-bit values of those fields that are all ones.
  for (std::uint64_t at = name_at + name_length; at + 4 <= extra_end;) {
    const std::uint64_t length = number(at + 2, 2);
    if (number(at, 2) == 1) {
      std::uint64_t value_at = at + 4;
      for (std::uint64_t* field : {&size, &packed, &header}) {
        if (*field == 0xFFFFFFFF && value_at + 8 <= std::min(extra_end, at + 4 + length)) {
          *field = number(value_at, 8);
          value_at += 8;
        }
      }
    }
    at += 4 + length;
  }
  const std::string& path = file_->path().string();
  MOELORA_CHECK((flags & 1) == 0, path, ": member ", name, " is encrypted; torch.save never does that");
  MOELORA_CHECK(method == 0 && packed == size, path, ": member ", name,
                " is compressed; torch.save stores members as they are, so this is another kind of zip archive");
  MOELORA_CHECK(number(header, 4) == kLocalSignature, damaged_archive(*file_, "a member is not where it should be"));
  const std::uint64_t local_name = number(header + 26, 2);
  const std::uint64_t data = header + 30 + local_name + number(header + 28, 2);
  MOELORA_CHECK(data <= file_->size() && size <= file_->size() - data,
                damaged_archive(*file_, "a member lies beyond the end"));
  const std::string_view bytes(reinterpret_cast<const char*>(file_->data()) + data, size);
  MOELORA_CHECK(name == std::string_view(bytes.data() - (data - header - 30), local_name),
                damaged_archive(*file_, "a member has another name than its directory entry"));
  const auto [member, added] = members_.emplace(std::move(name), bytes);
  MOELORA_CHECK(added, damaged_archive(*file_, "a member is listed twice"));
  extents.push_back({header, data + size, member->first});
  return next;
}

}  // namespace moelora::io
