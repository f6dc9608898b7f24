#include "moelora/eval/basic_tokens.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"
#include "support/shared.h"

namespace moelora::eval {
namespace {

using Words = std::vector<std::string>;

std::string utf8(char32_t c) {
  std::string text;
  if (c < 0x80) return {static_cast<char>(c)};
  if (c >= 0x10000) text += static_cast<char>(0xF0 | (c >> 18));
  if (c >= 0x800) text += static_cast<char>(c >= 0x10000 ? 0x80 | ((c >> 12) & 0x3F) : 0xE0 | (c >> 12));
  text += static_cast<char>(c >= 0x800 ? 0x80 | ((c >> 6) & 0x3F) : 0xC0 | (c >> 6));
  return text += static_cast<char>(0x80 | (c & 0x3F));
}

TEST(BasicTokens, EqualTheRecordedOnesOfTransformers) {
  for (const auto& entry : io::read_json_file(testing::fixtures() / "segmentation" / "texts.json")) {
    const std::string text = entry["text"];
    EXPECT_EQ(basic_tokens(text), entry["basic_tokens"].get<Words>()) << text;
  }
}

// Each character between letters and alone, hashed by blocks of 4096.
TEST(BasicTokens, EveryCharacterIsTreatedAsInTransformers) {
  std::ifstream recorded(testing::fixtures() / "segmentation" / "basic_tokens_blocks.txt");
  for (char32_t block = 0; block < 0x110000; block += 0x1000) {
    io::Sha256 hash;
    for (char32_t c = block; c < block + 0x1000; ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      std::string line;
      for (const std::string& token : basic_tokens("a" + utf8(c) + "b " + utf8(c))) {
        line += (line.empty() ? "" : "\x1f") + token;
      }
      hash.update(line + "\n");
    }
    std::string expected;
    ASSERT_TRUE(std::getline(recorded, expected));
    EXPECT_EQ(hash.hex().substr(0, 16), expected) << "block " << static_cast<std::uint32_t>(block);
  }
}

TEST(BasicTokens, MarksChineseCharactersAndWords) {
  EXPECT_EQ(basic_tokens("血压120/80mmHg，Café"), (Words{"血", "压", "120", "/", "80mmhg", "，", "cafe"}));
  EXPECT_EQ(basic_tokens(" \t\n\u3000"), Words{});
  EXPECT_EQ(basic_tokens("a\xff\xfe\x01z"), Words{"az"});
}

}  // namespace
}  // namespace moelora::eval
