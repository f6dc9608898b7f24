// Input: first byte: options; then a file of records. What was read must come back the same from its own JSON lines.
#include <nlohmann/json.hpp>

#include "fuzz/support.h"
#include "moelora/data/record.h"

int fuzz_records(const std::uint8_t* data, std::size_t size) {
  using namespace moelora;
  static fuzz::MemoryFile file;
  static fuzz::MemoryFile copy;
  if (size == 0) {
    return 0;
  }
  data::ReadOptions options;
  options.deduplicate = (data[0] & 1) != 0;
  options.need_target = (data[0] & 2) != 0;
  options.max_problems = (data[0] & 4) != 0 ? 0 : 100;
  const auto path = file.write({reinterpret_cast<const char*>(data) + 1, size - 1});
  fuzz::be_quiet();
  fuzz::accepted([&] {
    const auto read = data::read_records(path, options);
    std::string lines;
    for (const auto& record : read.records) {
      lines += data::to_json(record).dump() + "\n";
    }
    const auto again = data::read_records(copy.write(lines));
    fuzz::require(data::data_hash(again.records) == data::data_hash(read.records));
  });
  return 0;
}
