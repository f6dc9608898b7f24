#include "model/tokenizers/unicode_text.h"

#include <gtest/gtest.h>

namespace moelora::model::tokenizers {
namespace {

TEST(UnicodeText, NormalForms) {
  EXPECT_EQ(normalized("e\u0301 \uFB01", NormalForm::nfc), "\u00e9 \uFB01");
  EXPECT_EQ(normalized("\u00e9", NormalForm::nfd), "e\u0301");
  EXPECT_EQ(normalized("\uFB01\u2163\uFF21", NormalForm::nfkc), "fiIVA");
  EXPECT_EQ(normalized("\uFB01\u00e9", NormalForm::nfkd), "fie\u0301");
  EXPECT_EQ(normalized("plain", NormalForm::nfkd), "plain");
}

TEST(UnicodeText, LowerCaseByCharacter) { EXPECT_EQ(lowercased("ABC ÄΣ\u0130"), "abc äσi\u0307"); }

TEST(UnicodeText, BrokenBytesBecomeOneMarkForEachPart) {
  EXPECT_EQ(valid_utf8("a\xff\xfe"), "a\uFFFD\uFFFD");
  EXPECT_EQ(valid_utf8("\xe4\xbd z"), "\uFFFD z") << "two bytes of three";
  EXPECT_EQ(valid_utf8("\xf0\x9f\x98"), "\uFFFD");
  EXPECT_EQ(valid_utf8("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD") << "half of a surrogate pair";
  EXPECT_EQ(valid_utf8("\xc0\xaf"), "\uFFFD\uFFFD");
  EXPECT_TRUE(is_valid_utf8("病\U0001F600"));
  EXPECT_FALSE(is_valid_utf8("\xe4\xbd"));
}

TEST(UnicodeText, BlanksAndWordsAtTheEnds) {
  EXPECT_EQ(blanks_at_begin(" \u3000\n病"), 5U);
  EXPECT_EQ(blanks_at_end("病\u00a0 "), 3U);
  EXPECT_EQ(blanks_at_end(""), 0U);
  EXPECT_TRUE(ends_with_word("!病"));
  EXPECT_TRUE(begins_with_word("_x"));
  EXPECT_FALSE(begins_with_word("。"));
  EXPECT_FALSE(ends_with_word(""));
}

}  // namespace
}  // namespace moelora::model::tokenizers
