// Input: first byte: what to do; then text to encode, or pairs of bytes that are token ids to decode.
#include "fuzz/support.h"
#include "moelora/model/chatglm/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace moelora;
  static const model::ChatGlmTokenizer tokenizer(MOELORA_TEST_FIXTURES "/tokenizer");
  if (size == 0) {
    return 0;
  }
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool decodes = (data[0] & 1) != 0;
  fuzz::accepted([&] {
    model::TokenIds ids;
    if (decodes) {
      for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
        ids.push_back(static_cast<unsigned char>(text[i]) * 256 + static_cast<unsigned char>(text[i + 1]));
      }
    } else if ((data[0] & 2) != 0) {
      ids = tokenizer.encode(text, (data[0] & 4) != 0, (data[0] & 8) != 0, (data[0] & 16) != 0);
    } else {
      ids = tokenizer.encode(text);
    }
    const std::string decoded = tokenizer.decode(ids);
    tokenizer.clean_response(decoded);
    tokenizer.build_pair(ids, ids);
  });
  return 0;
}
