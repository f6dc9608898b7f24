// Input: first byte: what to do; then text to encode, or pairs of bytes that are token ids to decode.
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "fuzz/support.h"
#include "moelora/model/chatglm/tokenizer.h"

int fuzz_tokenizer(const std::uint8_t* data, std::size_t size) {
  using namespace moelora;
  // One for each way in which linebreaks, blanks and the dummy prefix can be switched off.
  static const auto tokenizers = [] {
    std::vector<std::unique_ptr<model::ChatGlmTokenizer>> made;
    for (int off = 0; off < 8; ++off) {
      made.push_back(std::make_unique<model::ChatGlmTokenizer>(
          MOELORA_TEST_FIXTURES "/tokenizer",
          nlohmann::ordered_json{
              {"linebreak", (off & 1) == 0}, {"whitespace", (off & 2) == 0}, {"dummy_prefix", (off & 4) == 0}}));
    }
    return made;
  }();
  if (size == 0) {
    return 0;
  }
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool decodes = (data[0] & 1) != 0;
  const model::ChatGlmTokenizer& tokenizer = *tokenizers[(data[0] & 2) != 0 ? (data[0] >> 2) & 7 : 0];
  fuzz::accepted([&] {
    model::TokenIds ids;
    if (decodes) {
      for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
        ids.push_back(static_cast<unsigned char>(text[i]) * 256 + static_cast<unsigned char>(text[i + 1]));
      }
    } else {
      ids = tokenizer.encode(text);
    }
    const std::string decoded = tokenizer.decode(ids);
    tokenizer.clean_response(decoded);
    tokenizer.build_pair(ids, ids);
  });
  return 0;
}
