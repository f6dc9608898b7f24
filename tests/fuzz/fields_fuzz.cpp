// Input: a mapping as JSON, a zero byte, a file of records. A mapping that is accepted must come back the same from its
// own JSON; records that it reads must keep input, answer and task in the project's own form.
#include <nlohmann/json.hpp>
#include <string_view>

#include "fuzz/support.h"
#include "moelora/data/record.h"
#include "moelora/io/json_text.h"

int fuzz_fields(const std::uint8_t* data, std::size_t size) {
  using namespace moelora;
  static fuzz::MemoryFile file;
  static fuzz::MemoryFile copy;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  if (end == std::string_view::npos) {
    return 0;
  }
  fuzz::be_quiet();
  fuzz::accepted([&] {
    data::ReadOptions options;
    options.fields = data::FieldMap::from_json(
        io::parse_json_text<nlohmann::ordered_json>(input.substr(0, end), "the fields"), "fields");
    fuzz::require(data::FieldMap::from_json(options.fields.to_json()) == options.fields);
    options.keep_original = true;
    const auto read = data::read_records(file.write(input.substr(end + 1)), options);
    std::string lines;
    for (const auto& record : read.records) {
      lines += data::to_json(record).dump() + "\n";
    }
    const auto again = data::read_records(copy.write(lines));
    fuzz::require(again.records.size() == read.records.size());
  });
  return 0;
}
