#include "moelora/data/as_text.h"

#include <algorithm>
#include <utility>

#include "moelora/data/split.h"

namespace moelora::data {
namespace {

constexpr std::uint64_t kCutSalt = 0x74657874ull;

}  // namespace

std::vector<Record> as_texts(std::vector<Record> records) {
  std::vector<Record> texts;
  texts.reserve(records.size());
  for (Record& record : records) {
    const double share = 0.05 + 0.45 * static_cast<double>(record_hash(record, kCutSalt) >> 11) * 0x1.0p-53;
    const std::string text = record.input + record.target;
    std::vector<std::size_t> starts;  // of its characters
    for (std::size_t i = 0; i < text.size(); ++i) {
      if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) {
        starts.push_back(i);
      }
    }
    if (starts.size() < 2) {
      continue;
    }
    const auto cut = std::clamp<std::size_t>(static_cast<std::size_t>(share * static_cast<double>(starts.size())), 1,
                                             starts.size() - 1);
    Record part;
    part.input = text.substr(0, starts[cut]);
    part.target = text.substr(starts[cut]);
    part.task = "text";
    part.sample_id = std::move(record.sample_id);
    part.weight = record.weight;
    part.file = std::move(record.file);
    part.line = record.line;
    texts.push_back(std::move(part));
  }
  return texts;
}

}  // namespace moelora::data
