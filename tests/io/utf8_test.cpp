#include "moelora/io/utf8.h"

#include <gtest/gtest.h>

#include "io/raises.h"

namespace moelora::io {
namespace {

std::string utf16(std::u16string_view text, bool big_endian, bool mark) {
  std::string bytes;
  const auto append = [&](char16_t unit) {
    const char high = static_cast<char>(unit >> 8);
    const char low = static_cast<char>(unit & 0xff);
    bytes += big_endian ? std::string{high, low} : std::string{low, high};
  };
  if (mark) {
    append(0xfeff);
  }
  for (const char16_t unit : text) {
    append(unit);
  }
  return bytes;
}

TEST(Utf8, ReadsUtf16OfEitherOrderWithAndWithoutMark) {
  const std::string text = "{\"问\": \"答é𝄞\"}\r\n";
  for (const bool big : {false, true}) {
    for (const bool mark : {false, true}) {
      EXPECT_EQ(to_utf8(utf16(u"{\"问\": \"答é𝄞\"}\r\n", big, mark), "f"), text) << big << mark;
    }
  }
  EXPECT_EQ(to_utf8("\xef\xbb\xbf" + text, "f"), text);
  EXPECT_EQ(to_utf8(text, "f"), text);
  EXPECT_EQ(to_utf8("", "f"), "");
  EXPECT_EQ(to_utf8("\xff\xfe", "f"), "");
}

TEST(Utf8, NamesWhatItCannotRead) {
  EXPECT_TRUE(
      raises([] { to_utf8(std::string("\xff\xfe\0\0{\0\0\0", 8), "f.json"); }, "f.json: this text is in UTF-32"));
  EXPECT_TRUE(raises([] { to_utf8(std::string("\xff\xfe{\0}", 5), "f.json"); }, "f.json: this UTF-16 text ends"));
  EXPECT_TRUE(raises(
      [] {
        to_utf8(utf16(std::u16string{u'{', u'\n', 0xd800, u'}'}, false, true), "f.json");
      },
      "f.json:2: half a character"));
  EXPECT_TRUE(raises([] { to_utf8(utf16(std::u16string{u'{', 0xdc00}, true, true), "f.json"); }, "f.json:1: half"));
}

TEST(Utf8, KnowsWholeCharacters) {
  EXPECT_EQ(utf8_length("a", 0), 1u);
  EXPECT_EQ(utf8_length("é", 0), 2u);
  EXPECT_EQ(utf8_length("医", 0), 3u);
  EXPECT_EQ(utf8_length("𝄞", 0), 4u);
  for (const char* wrong : {"\x80", "\xc0\x80", "\xc3", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                            "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xe5\x8c"}) {
    EXPECT_EQ(utf8_length(wrong, 0), 0u);
  }
  EXPECT_EQ(count_characters("a医é"), 3u);
  EXPECT_EQ(shortened("医生\n", 5), "医生 ");
  EXPECT_EQ(shortened("医生说", 2), "医生…");
  EXPECT_EQ(shortened("a\xff", 5), "a?");
}

}  // namespace
}  // namespace moelora::io
