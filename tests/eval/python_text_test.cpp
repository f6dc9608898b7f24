#include "moelora/eval/python_text.h"

#include <gtest/gtest.h>

namespace moelora::eval::text {
namespace {

TEST(PythonText, StripTakesUnicodeWhiteSpace) {
  EXPECT_EQ(strip("\u3000 \x1f中 文\u2029\u0085"), "中 文");
  EXPECT_EQ(strip("\u200b"), "\u200b");
  EXPECT_EQ(strip(" \n"), "");
  EXPECT_EQ(strip("\xe3\x80"), "\xe3\x80");
}

TEST(PythonText, SplitKeepsEmptyPieces) {
  using Pieces = std::vector<std::string_view>;
  EXPECT_EQ(split("，a，，", "，"), (Pieces{"", "a", "", ""}));
  EXPECT_EQ(split("", "x"), Pieces{""});
  EXPECT_EQ(words(" a\u3000b \n"), (Pieces{"a", "b"}));
}

TEST(PythonText, ReplaceStopsAtItsLimit) {
  EXPECT_EQ(replace("aaa", "a", "bb", 2), "bbbba");
  EXPECT_EQ(replace("aaa", "a", ""), "");
}

TEST(PythonText, SlicesCountCodePoints) {
  EXPECT_EQ(drop_front("具有病因", 2), "病因");
  EXPECT_EQ(drop_front("具", 2), "");
  EXPECT_EQ(drop_front("\xff具x", 2), "x");
}

TEST(PythonText, WidthIsTwoForEastAsianCharacters) {
  EXPECT_EQ(display_width("a中，"), 5);
  EXPECT_EQ(display_width("e\u0301"), 1);
}

TEST(PythonText, InvalidBytesBecomeReplacementCharacters) {
  EXPECT_EQ(valid_utf8("a\xff\xc0\xaf\xed\xa0\x80中"), "a\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd中");
  EXPECT_EQ(valid_utf8("\xf4\x90\x80\x80"), "\ufffd\ufffd\ufffd\ufffd");
}

}  // namespace
}  // namespace moelora::eval::text
