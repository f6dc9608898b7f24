// Input: first byte: what to do. A chat template to read and render, a text to encode with recorded tokenizers, or a
// tokenizer.json, a zero byte and a text.
#include <memory>
#include <nlohmann/json.hpp>

#include "fuzz/support.h"
#include "moelora/model/hf_tokenizer.h"

namespace {

using namespace moelora;

void use(const model::HfTokenizer& tokenizer, const std::string& text) {
  const model::TokenIds ids = tokenizer.encode(text);
  tokenizer.clean_response(tokenizer.decode(ids));
  tokenizer.decode_all(tokenizer.encode_plain(text));
  tokenizer.build_pair(ids, ids);
  for (const std::int64_t id : ids) {
    fuzz::require(!tokenizer.piece(id).empty());
  }
}

}  // namespace

int fuzz_tokenizer_json(const std::uint8_t* data, std::size_t size) {
  fuzz::be_quiet();
  static const model::HfTokenizer recorded(MOELORA_TEST_FIXTURES "/byte_fallback");
  static fuzz::MemoryFile file;
  if (size == 0) {
    return 0;
  }
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  fuzz::accepted([&] {
    if (data[0] % 3 == 0) {
      const model::ChatTemplate chat(rest, "input");
      chat.render({{"system", "s"}, {"user", "u <s>"}, {"assistant", " a\n"}, {"user", "\xe7\x97\x85"}}, true,
                  {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
    } else if (data[0] % 3 == 1) {
      use(recorded, rest);
      const model::TrainingPair pair = recorded.chat_pair({"", {}, rest}, rest);
      fuzz::require(pair.label_begin > 0 && pair.label_begin < pair.length());
    } else {
      const std::size_t end = std::min(rest.find('\0'), rest.size());
      const model::HfTokenizer tokenizer(file.write(rest.substr(0, end)),
                                         {{"eos_token", "a"}, {"chat_template", nullptr}});
      use(tokenizer, rest.substr(std::min(end + 1, rest.size())));
    }
  });
  return 0;
}
